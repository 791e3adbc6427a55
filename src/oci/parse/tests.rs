use proptest::prelude::*;

use super::*;
use crate::cases::registry_requests::{DIGEST, HOSTILE, LEGAL, with_digests};
use crate::oci::{Algorithm, LONGEST_TAG, RegistryName};

fn parsed(method: &str, target: &str) -> Result<Request, RequestFault> {
    Request::parse(method, &with_digests(target), Naming::Mirror)
}

#[test]
fn requests_are_what_the_tables_say() {
    assert!(LEGAL.len() + HOSTILE.len() >= 120);
    for (method, target, expected) in LEGAL.iter().chain(HOSTILE) {
        let found = parsed(method, target);
        match expected {
            Err(fault) => assert_eq!(found, Err(*fault), "{method} {target}"),
            Ok(read) => {
                let found = found.unwrap_or_else(|fault| panic!("{method} {target}: {fault}"));
                let registry = found.registry.as_ref().map(RegistryName::as_str);
                assert_eq!(registry, read.registry, "{method} {target}");
                assert_eq!(found.operation.name(), read.name, "{method} {target}");
                let encoded = DIGEST.replace(':', "%3A");
                let built = with_digests(&read.target.replace("ENCODED", &encoded));
                assert_eq!(found.operation.target(), built, "{method} {target}");
            }
        }
    }
}

#[test]
fn a_connection_has_named_its_registry() {
    let parse = |target: &str| Request::parse("GET", target, Naming::Connection);
    assert_eq!(parse("/v2/a/manifests/1?ns=a.b"), Err(RequestFault::UnknownKey));
    let request = parse("/v2/a.b/c/manifests/1").unwrap();
    assert_eq!(request.registry, None);
    assert_eq!(request.operation.repository().unwrap().as_str(), "a.b/c");
}

#[test]
fn lengths_are_limited() {
    let of = |name: usize, tag: usize| {
        parsed("GET", &format!("/v2/{}/manifests/{}", "a".repeat(name), "b".repeat(tag)))
    };
    assert!(of(LONGEST_REPOSITORY, LONGEST_TAG).is_ok());
    assert_eq!(of(LONGEST_REPOSITORY + 1, 1), Err(RequestFault::RepositoryTooLong));
    assert_eq!(of(1, LONGEST_TAG + 1), Err(RequestFault::Tag));
    let long = format!("/v2/{}", "a/".repeat(LONGEST_TARGET));
    assert_eq!(parsed("GET", &long), Err(RequestFault::TooLong));
    let pairs = ["n=1&"; 20].concat();
    assert_eq!(parsed("GET", &format!("/v2/?{pairs}n=1")), Err(RequestFault::QueryForm));
    // Scopes in one pair are sent on as pairs.
    let scopes = |count: usize| {
        parsed("GET", &format!("/oauth2/token?scope={}", ["a"].repeat(count).join("+")))
    };
    assert!(scopes(16).is_ok());
    assert_eq!(scopes(17), Err(RequestFault::QueryForm));
}

#[test]
fn every_operation_has_a_name_of_the_list() {
    for (method, target, expected) in LEGAL {
        if expected.is_ok() {
            let name = parsed(method, target).unwrap().operation.name();
            assert!(Operation::NAMES.contains(&name), "{name}");
        }
    }
}

fn repositories() -> impl Strategy<Value = Repository> {
    let component = "[a-z0-9]{1,6}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}";
    proptest::collection::vec(component, 1..5)
        .prop_map(|parts| Repository::parse(&parts.join("/")).unwrap())
}

fn digests() -> impl Strategy<Value = Digest> {
    (any::<u64>(), any::<bool>()).prop_map(|(seed, long)| {
        let algorithm = if long { Algorithm::Sha512 } else { Algorithm::Sha256 };
        Digest::of(algorithm, &seed.to_be_bytes())
    })
}

fn tags() -> impl Strategy<Value = Tag> {
    "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}".prop_map(|text| Tag::parse(&text).unwrap())
}

fn references() -> impl Strategy<Value = Reference> {
    prop_oneof![tags().prop_map(Reference::Tag), digests().prop_map(Reference::Digest)]
}

fn uploads() -> impl Strategy<Value = Upload> {
    let id = "[a-zA-Z0-9_=-]{1,40}".prop_map(|text| UploadId::parse(&text).unwrap());
    let state = proptest::option::of("[a-zA-Z0-9_=-]{1,90}");
    (id, state, any::<Option<bool>>()).prop_map(|(id, state, no_cache)| {
        let state = state.map(|text| UploadState::parse(&text).unwrap());
        Upload { id, state, no_cache }
    })
}

fn operations() -> impl Strategy<Value = (&'static str, Operation)> {
    let named = || (repositories(), references());
    let content = || (repositories(), digests());
    let kept = || (repositories(), uploads());
    let artifact = proptest::option::of("[a-z]{1,5}/[a-z0-9][a-z0-9.+&#!$^_-]{0,20}");
    let mounts = (digests(), proptest::option::of(repositories()));
    let page = (any::<Option<u32>>(), proptest::option::of(tags()));
    let pages = (any::<Option<u32>>(), proptest::option::of(repositories()));
    prop_oneof![
        Just(("GET", Operation::Ping)),
        named().prop_map(|(repository, reference)| {
            ("HEAD", Operation::Manifest { repository, reference })
        }),
        named().prop_map(|(repository, reference)| {
            ("PUT", Operation::PutManifest { repository, reference })
        }),
        named().prop_map(|(repository, reference)| {
            ("DELETE", Operation::DeleteManifest { repository, reference })
        }),
        content().prop_map(|(repository, digest)| ("GET", Operation::Blob { repository, digest })),
        content().prop_map(|(repository, digest)| {
            ("DELETE", Operation::DeleteBlob { repository, digest })
        }),
        (content(), artifact).prop_map(|((repository, digest), text)| {
            let artifact_type = text.map(|text| ArtifactType::parse(&text).unwrap());
            ("GET", Operation::Referrers { repository, digest, artifact_type })
        }),
        (repositories(), page).prop_map(|(repository, (n, last))| {
            ("GET", Operation::Tags { repository, page: Page { n, last } })
        }),
        pages.prop_map(|(n, last)| ("GET", Operation::Catalog { page: Page { n, last } })),
        (repositories(), proptest::option::of(digests())).prop_map(|(repository, digest)| {
            ("POST", Operation::UploadStart { repository, digest, mount: None })
        }),
        (repositories(), mounts).prop_map(|(repository, (digest, from))| {
            let mount = Some(Mount { digest, from });
            ("POST", Operation::UploadStart { repository, digest: None, mount })
        }),
        kept().prop_map(|(repository, upload)| {
            ("PATCH", Operation::UploadChunk { repository, upload })
        }),
        kept().prop_map(|(repository, upload)| {
            ("GET", Operation::UploadStatus { repository, upload })
        }),
        kept().prop_map(|(repository, upload)| {
            ("DELETE", Operation::UploadCancel { repository, upload })
        }),
        (kept(), digests()).prop_map(|((repository, upload), digest)| {
            ("PUT", Operation::UploadFinish { repository, upload, digest })
        }),
    ]
}

proptest! {
    /// What is built is read back as the same operation, so that nothing that passes can be read in
    /// two ways.
    #[test]
    fn what_is_built_is_read_back((method, operation) in operations()) {
        let target = operation.target();
        let request = Request::parse(method, &target, Naming::Connection);
        let expected =
            Request { method: Method::parse(method).unwrap(), registry: None, operation };
        prop_assert_eq!(request, Ok(expected), "{}", target);
    }

    /// Whatever a client writes, what is built from it is stable and plain.
    #[test]
    fn what_is_accepted_is_built_plainly(
        method in "GET|HEAD|PUT|POST|PATCH|DELETE",
        pieces in proptest::collection::vec(
            "/|v2|/v2/|a|b.c|manifests|blobs|uploads|tags|list|referrers|_catalog|:|%2f|\\.\\.|\\?|\
             &|n=1|ns=a.b|last=x|digest=|sha256:[0-9a-f]{64}|#|=|[ -~]",
            0..12,
        ),
        joined in any::<bool>(),
    ) {
        let text = pieces.join(if joined { "/" } else { "" });
        for naming in [Naming::Mirror, Naming::Connection] {
            for text in [format!("/v2/{text}"), text.clone()] {
                if let Ok(request) = Request::parse(&method, &text, naming) {
                    let built = request.operation.target();
                    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._:-=?&%".contains(&byte);
                    prop_assert!(built.bytes().all(plain), "{}", built);
                    prop_assert!(!built.contains("//") && !built.contains("/../"));
                    let again = Request::parse(&method, &built, Naming::Connection).unwrap();
                    prop_assert_eq!(again.operation, request.operation);
                }
            }
        }
    }
}
