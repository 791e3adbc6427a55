//! Registry requests: how a mirror parses each, and what it sends upstream.

use pullgate::oci::{DigestFault, RequestFault};

/// A method, a target, and what it is: the registry that it names, the operation's name and the
/// target that is built anew; or what is wrong with it. `DIGEST` stands for a digest.
pub type Case = (&'static str, &'static str, Result<Read, RequestFault>);

/// What a request was understood to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    pub registry: Option<&'static str>,
    pub name: &'static str,
    pub target: &'static str,
}

/// The digest that stands for `DIGEST`.
pub const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A text with its digests in place.
pub fn with_digests(text: &str) -> String {
    text.replace("DIGEST", DIGEST)
}

const fn at(name: &'static str, target: &'static str) -> Result<Read, RequestFault> {
    Ok(Read { registry: None, name, target })
}

const fn of(
    registry: &'static str,
    name: &'static str,
    target: &'static str,
) -> Result<Read, RequestFault> {
    Ok(Read { registry: Some(registry), name, target })
}

/// Requests that are understood.
pub const LEGAL: &[Case] = &[
    ("GET", "/v2/", at("ping", "/v2/")),
    ("HEAD", "/v2/", at("ping", "/v2/")),
    ("GET", "/v2/?ns=docker.io", of("docker.io", "ping", "/v2/")),
    ("GET", "/v2/a/manifests/latest", at("manifest", "/v2/a/manifests/latest")),
    ("HEAD", "/v2/a/b/c/manifests/V1._-x", at("manifest", "/v2/a/b/c/manifests/V1._-x")),
    ("GET", "/v2/a/manifests/DIGEST", at("manifest", "/v2/a/manifests/DIGEST")),
    ("GET", "/v2/a/blobs/DIGEST", at("blob", "/v2/a/blobs/DIGEST")),
    ("HEAD", "/v2/a/blobs/DIGEST", at("blob", "/v2/a/blobs/DIGEST")),
    ("GET", "/v2/a/tags/list", at("tags", "/v2/a/tags/list")),
    ("GET", "/v2/a/tags/list?n=5", at("tags", "/v2/a/tags/list?n=5")),
    ("GET", "/v2/a/tags/list?last=v1&n=0", at("tags", "/v2/a/tags/list?n=0&last=v1")),
    ("GET", "/v2/a/referrers/DIGEST", at("referrers", "/v2/a/referrers/DIGEST")),
    (
        "GET",
        "/v2/a/referrers/DIGEST?artifactType=application/vnd.x%2Bjson",
        at("referrers", "/v2/a/referrers/DIGEST?artifactType=application%2Fvnd.x%2Bjson"),
    ),
    ("GET", "/v2/_catalog", at("catalog", "/v2/_catalog")),
    ("GET", "/v2/_catalog?n=9&last=a%2Fb", at("catalog", "/v2/_catalog?n=9&last=a%2Fb")),
    // Repositories made of the words that paths are made of.
    (
        "GET",
        "/v2/manifests/manifests/manifests",
        at("manifest", "/v2/manifests/manifests/manifests"),
    ),
    ("GET", "/v2/tags/list/tags/list", at("tags", "/v2/tags/list/tags/list")),
    ("GET", "/v2/a/blobs/uploads/tags/list", at("tags", "/v2/a/blobs/uploads/tags/list")),
    ("GET", "/v2/a/manifests/b/blobs/DIGEST", at("blob", "/v2/a/manifests/b/blobs/DIGEST")),
    ("GET", "/v2/v2/manifests/v2", at("manifest", "/v2/v2/manifests/v2")),
    // The registry in the query.
    (
        "GET",
        "/v2/library/alpine/manifests/3?ns=docker.io",
        of("docker.io", "manifest", "/v2/library/alpine/manifests/3"),
    ),
    (
        "GET",
        "/v2/a/manifests/1?ns=Reg.Example.com%3A8443",
        of("reg.example.com:8443", "manifest", "/v2/a/manifests/1"),
    ),
    ("GET", "/v2/a/tags/list?n=5&ns=a.b", of("a.b", "tags", "/v2/a/tags/list?n=5")),
    // The registry in the path.
    (
        "GET",
        "/v2/contoso.azurecr.io/team/app/manifests/v1",
        of("contoso.azurecr.io", "manifest", "/v2/team/app/manifests/v1"),
    ),
    (
        "GET",
        "/v2/CONTOSO.azurecr.io/a/blobs/DIGEST",
        of("contoso.azurecr.io", "blob", "/v2/a/blobs/DIGEST"),
    ),
    (
        "GET",
        "/v2/reg.example.com:8443/a/tags/list",
        of("reg.example.com:8443", "tags", "/v2/a/tags/list"),
    ),
    ("GET", "/v2/localhost/a/tags/list", of("localhost", "tags", "/v2/a/tags/list")),
    ("GET", "/v2/contoso.azurecr.io/", of("contoso.azurecr.io", "ping", "/v2/")),
    ("GET", "/v2/a.b/c/manifests/1?ns=a.b", of("a.b", "manifest", "/v2/c/manifests/1")),
    ("GET", "/v2/x.y/c/manifests/1?ns=a.b", of("a.b", "manifest", "/v2/x.y/c/manifests/1")),
    ("GET", "/v2/a.b/_catalog", of("a.b", "catalog", "/v2/_catalog")),
    ("GET", "/v2/a.b/c.d/manifests/1", of("a.b", "manifest", "/v2/c.d/manifests/1")),
    // Pushes and deletions, which a mirror understands in order to refuse them.
    ("PUT", "/v2/a/manifests/v1", at("put-manifest", "/v2/a/manifests/v1")),
    ("DELETE", "/v2/a/manifests/DIGEST", at("delete-manifest", "/v2/a/manifests/DIGEST")),
    ("DELETE", "/v2/a/blobs/DIGEST", at("delete-blob", "/v2/a/blobs/DIGEST")),
    ("POST", "/v2/a/blobs/uploads/", at("upload-start", "/v2/a/blobs/uploads/")),
    (
        "POST",
        "/v2/a/blobs/uploads/?from=b%2Fc&mount=DIGEST",
        at("upload-start", "/v2/a/blobs/uploads/?mount=ENCODED&from=b%2Fc"),
    ),
    (
        "POST",
        "/v2/a/blobs/uploads/?digest=DIGEST",
        at("upload-start", "/v2/a/blobs/uploads/?digest=ENCODED"),
    ),
    ("PATCH", "/v2/a/blobs/uploads/1-2_3", at("upload-chunk", "/v2/a/blobs/uploads/1-2_3")),
    (
        "PATCH",
        "/v2/a/blobs/uploads/1?_state=YWJj%3D",
        at("upload-chunk", "/v2/a/blobs/uploads/1?_state=YWJj%3D"),
    ),
    (
        "PUT",
        "/v2/a/blobs/uploads/1?_nouploadcache=false&_state=x&digest=sha256%3Ae3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        at("upload-finish", "/v2/a/blobs/uploads/1?_nouploadcache=false&_state=x&digest=ENCODED"),
    ),
    ("GET", "/v2/a/blobs/uploads/1", at("upload-status", "/v2/a/blobs/uploads/1")),
    ("DELETE", "/v2/a/blobs/uploads/1", at("upload-cancel", "/v2/a/blobs/uploads/1")),
    ("GET", "/oauth2/token", at("token", "/oauth2/token")),
    (
        "GET",
        "/oauth2/token?scope=repository%3Aa%2Fb%3Apull&service=contoso.azurecr.io",
        at("token", "/oauth2/token?service=contoso.azurecr.io&scope=repository%3Aa%2Fb%3Apull"),
    ),
    (
        "GET",
        "/oauth2/token?scope=repository:a:pull+repository:b:pull,push&scope=registry:catalog:*",
        at(
            "token",
            "/oauth2/token?scope=repository%3Aa%3Apull&scope=repository%3Ab%3Apull%2Cpush&scope=registry%3Acatalog%3A%2A",
        ),
    ),
    (
        "GET",
        "/oauth2/token?account=me&client_id=docker&offline_token=true",
        at("token", "/oauth2/token?account=me&client_id=docker&offline_token=true"),
    ),
    ("POST", "/oauth2/token", at("token", "/oauth2/token")),
    ("POST", "/oauth2/exchange", at("token", "/oauth2/exchange")),
];

/// Requests that are refused.
pub const HOSTILE: &[Case] = {
    use RequestFault::*;
    const FORM: RequestFault = Digest(DigestFault::Form);
    const DIGITS: RequestFault = Digest(DigestFault::Digits);
    const ALGORITHM: RequestFault = Digest(DigestFault::Algorithm);
    &[
        // Other forms than a path.
        ("GET", "", Err(Form)),
        ("GET", "*", Err(Form)),
        ("OPTIONS", "*", Err(Form)),
        ("GET", "v2/", Err(Form)),
        ("GET", "http://evil.com/v2/", Err(Form)),
        ("GET", "https://contoso.azurecr.io/v2/a/manifests/1", Err(Form)),
        ("CONNECT", "contoso.azurecr.io:443", Err(Form)),
        ("GET", "//evil.com/v2/", Err(EmptySegment)),
        ("GET", "//v2/a/manifests/1", Err(EmptySegment)),
        ("GET", "?ns=docker.io", Err(Form)),
        ("GET", "/v2/#", Err(Fragment)),
        ("GET", "/v2/a/manifests/1#x", Err(Fragment)),
        ("GET", "/v2/a/tags/list?n=1#x", Err(Fragment)),
        // Other spellings of a path.
        ("GET", "/v2/a%2fb/manifests/1", Err(PercentEncoding)),
        ("GET", "/v2/a%2Fb/manifests/1", Err(PercentEncoding)),
        ("GET", "/v2/%61/manifests/1", Err(PercentEncoding)),
        ("GET", "/%76%32/a/manifests/1", Err(PercentEncoding)),
        ("GET", "/v2/a/manifests/%2e%2e", Err(PercentEncoding)),
        ("GET", "/v2/a/manifests/1%00", Err(PercentEncoding)),
        ("GET", "/v2/a/manifests/1%", Err(PercentEncoding)),
        ("GET", "/v2/a%252fb/manifests/1", Err(PercentEncoding)),
        ("GET", "/v2/a/blobs/sha256%3Ae3b0", Err(PercentEncoding)),
        ("GET", "/v2/a/../b/manifests/1", Err(DotSegment)),
        ("GET", "/v2/team/app/../../other/manifests/1", Err(DotSegment)),
        ("GET", "/v2/./a/manifests/1", Err(DotSegment)),
        ("GET", "/v2/a/manifests/..", Err(DotSegment)),
        ("GET", "/v2/a/manifests/.", Err(DotSegment)),
        ("GET", "/v2/..", Err(DotSegment)),
        ("GET", "/../v2/", Err(DotSegment)),
        ("GET", "/./v2/", Err(DotSegment)),
        ("GET", "/v2//a/manifests/1", Err(EmptySegment)),
        ("GET", "/v2/a//b/manifests/1", Err(EmptySegment)),
        ("GET", "/v2/a/manifests//1", Err(EmptySegment)),
        ("GET", "/v2/a/manifests/1/", Err(EmptySegment)),
        ("GET", "/v2/a/manifests/", Err(EmptySegment)),
        ("GET", "/v2//", Err(EmptySegment)),
        ("GET", "/v2/a/tags/list/", Err(EmptySegment)),
        ("GET", "/v2/a/blobs/uploads//", Err(EmptySegment)),
        ("POST", "/v2//blobs/uploads/", Err(EmptySegment)),
        ("GET", "/v2/a/manifests/1;x=y", Err(Character)),
        ("GET", "/v2/a\\b/manifests/1", Err(Character)),
        ("GET", "/v2\\a\\manifests\\1", Err(Character)),
        ("GET", "/v2/a b/manifests/1", Err(Character)),
        ("GET", "/v2/a\tb/manifests/1", Err(Character)),
        ("GET", "/v2/a\0/manifests/1", Err(Character)),
        ("GET", "/v2/\u{e4}/manifests/1", Err(Character)),
        ("GET", "/v2/a/manifests/\u{202e}1", Err(Character)),
        ("GET", "/v2/a/manifests/1&x=y", Err(Character)),
        ("GET", "/v2/a+b/manifests/1", Err(Character)),
        ("GET", "/v2/a*/manifests/1", Err(Character)),
        ("GET", "/v2/~a/manifests/1", Err(Character)),
        ("GET", "/v2/user@evil.com/a/manifests/1", Err(Character)),
        // Paths of no operation.
        ("GET", "/", Err(UnknownPath)),
        ("GET", "/v2", Err(UnknownPath)),
        ("GET", "/V2/", Err(UnknownPath)),
        ("GET", "/v1/", Err(UnknownPath)),
        ("GET", "/v1/search", Err(UnknownPath)),
        ("GET", "/v20/a/manifests/1", Err(UnknownPath)),
        ("GET", "/v2/a", Err(UnknownPath)),
        ("GET", "/v2/a/b", Err(UnknownPath)),
        ("GET", "/v2/a/b/c", Err(UnknownPath)),
        ("GET", "/v2/manifests/latest", Err(UnknownPath)),
        ("GET", "/v2/tags/list", Err(UnknownPath)),
        ("GET", "/v2/a/tags/other", Err(UnknownPath)),
        ("GET", "/v2/a/Manifests/latest", Err(UnknownPath)),
        ("GET", "/v2/a/manifests/b/latest", Err(UnknownPath)),
        ("GET", "/v2/a/uploads/1", Err(UnknownPath)),
        ("GET", "/v2/a/_catalog", Err(UnknownPath)),
        ("GET", "/v2/_catalog/", Err(EmptySegment)),
        ("GET", "/v2/a/_trust/tuf/root.json", Err(UnknownPath)),
        ("GET", "/acr/v1/_catalog", Err(UnknownPath)),
        ("GET", "/acr/v1/a/_tags", Err(UnknownPath)),
        ("GET", "/oauth2/token/", Err(UnknownPath)),
        ("GET", "/oauth2/authorize", Err(UnknownPath)),
        ("GET", "/metrics", Err(UnknownPath)),
        // Names that break the grammar.
        ("GET", "/v2/A/manifests/1", Err(Repository)),
        ("GET", "/v2/a_/manifests/1", Err(Repository)),
        ("GET", "/v2/a___b/manifests/1", Err(Repository)),
        ("GET", "/v2/-a/manifests/1", Err(Repository)),
        ("GET", "/v2/a/..b/manifests/1", Err(Repository)),
        ("GET", "/v2/a/b..c/manifests/1", Err(Repository)),
        ("GET", "/v2/a/b:80/manifests/1", Err(Repository)),
        ("GET", "/v2/a=b/manifests/1", Err(Repository)),
        ("GET", "/v2/a/manifests/-1", Err(Tag)),
        ("GET", "/v2/a/manifests/.1", Err(Tag)),
        ("GET", "/v2/a/manifests/a=b", Err(Tag)),
        ("GET", "/v2/a/blobs/latest", Err(FORM)),
        ("GET", "/v2/a/blobs/uploads", Err(FORM)),
        ("GET", "/v2/a/blobs/sha256:e3b0", Err(DIGITS)),
        ("GET", "/v2/a/blobs/sha256:..", Err(DIGITS)),
        ("GET", "/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", Err(ALGORITHM)),
        ("GET", "/v2/a/manifests/sha256:E3B0", Err(DIGITS)),
        ("GET", "/v2/a/manifests/x:y", Err(ALGORITHM)),
        ("GET", "/v2/a/referrers/latest", Err(FORM)),
        ("PATCH", "/v2/a/blobs/uploads/a:b", Err(Upload)),
        // Registries.
        ("GET", "/v2/a..b/c/manifests/1", Err(Registry)),
        ("GET", "/v2/a.b:/c/manifests/1", Err(Registry)),
        ("GET", "/v2/a.b:0/c/manifests/1", Err(Registry)),
        ("GET", "/v2/:80/c/manifests/1", Err(Registry)),
        ("GET", "/v2/-a.b/c/manifests/1", Err(Registry)),
        ("GET", "/v2/a/manifests/1?ns=a/b", Err(Registry)),
        ("GET", "/v2/a/manifests/1?ns=https://a.b", Err(Registry)),
        ("GET", "/v2/a/manifests/1?ns=u%40a.b", Err(Registry)),
        ("GET", "/v2/a/manifests/1?ns=[::1]", Err(Registry)),
        ("GET", "/v2/a/manifests/1?ns=a.b&ns=c.d", Err(KeyTwice)),
        ("GET", "/v2/a/manifests/1?ns=a.b&ns=a.b", Err(KeyTwice)),
        // Queries.
        ("GET", "/v2/?", Err(QueryForm)),
        ("GET", "/v2/?x", Err(QueryForm)),
        ("GET", "/v2/?=x", Err(QueryForm)),
        ("GET", "/v2/?ns=", Err(QueryForm)),
        ("GET", "/v2/?ns=a.b&", Err(QueryForm)),
        ("GET", "/v2/?ns=a%", Err(QueryForm)),
        ("GET", "/v2/?ns=a%4", Err(QueryForm)),
        ("GET", "/v2/?ns=a%zz", Err(QueryForm)),
        ("GET", "/v2/?ns=a%0d%0aX", Err(QueryForm)),
        ("GET", "/v2/?ns=a%00", Err(QueryForm)),
        ("GET", "/v2/?ns=%C3%A4", Err(QueryForm)),
        ("GET", "/v2/?ns=\u{e4}", Err(QueryForm)),
        ("GET", "/v2/?%6es=a.b", Err(UnknownKey)),
        ("GET", "/v2/?NS=a.b", Err(UnknownKey)),
        ("GET", "/v2/?x=y", Err(UnknownKey)),
        ("GET", "/v2/?n=5", Err(UnknownKey)),
        ("GET", "/v2/a/manifests/1?tag=2", Err(UnknownKey)),
        ("GET", "/v2/a/blobs/DIGEST?digest=DIGEST", Err(UnknownKey)),
        ("GET", "/v2/a/tags/list?n=5&n=6", Err(KeyTwice)),
        ("GET", "/v2/a/tags/list?n=-1", Err(Value)),
        ("GET", "/v2/a/tags/list?n=%2B1", Err(Value)),
        ("GET", "/v2/a/tags/list?n=01", Err(Value)),
        ("GET", "/v2/a/tags/list?n=4294967296", Err(Value)),
        ("GET", "/v2/a/tags/list?last=../x", Err(Value)),
        ("GET", "/v2/a/tags/list?last=a%252f", Err(Value)),
        ("GET", "/v2/_catalog?last=A", Err(Value)),
        ("GET", "/v2/a/referrers/DIGEST?artifactType=x", Err(Value)),
        ("GET", "/v2/a/referrers/DIGEST?artifactType=a/b+json", Err(Value)),
        ("POST", "/v2/a/blobs/uploads/?from=b", Err(Value)),
        ("POST", "/v2/a/blobs/uploads/?mount=DIGEST&from=../b", Err(Repository)),
        ("POST", "/v2/a/blobs/uploads/?mount=DIGEST&digest=DIGEST", Err(Value)),
        ("PUT", "/v2/a/blobs/uploads/1", Err(Value)),
        ("PUT", "/v2/a/blobs/uploads/1?_state=a/b&digest=DIGEST", Err(Value)),
        ("GET", "/oauth2/token?refresh_token=x", Err(UnknownKey)),
        ("GET", "/oauth2/token?service=a%0a", Err(QueryForm)),
        ("GET", "/oauth2/token?offline_token=yes", Err(Value)),
        // Methods.
        ("OPTIONS", "/v2/", Err(Method)),
        ("TRACE", "/v2/", Err(Method)),
        ("get", "/v2/", Err(Method)),
        ("PRI", "/v2/", Err(Method)),
        ("POST", "/v2/", Err(Method)),
        ("PUT", "/v2/a/tags/list", Err(Method)),
        ("POST", "/v2/a/manifests/1", Err(Method)),
        ("PUT", "/v2/a/blobs/DIGEST", Err(Method)),
        ("GET", "/v2/a/blobs/uploads/", Err(Method)),
        ("PUT", "/v2/a/blobs/uploads/", Err(Method)),
        ("HEAD", "/v2/a/blobs/uploads/1", Err(Method)),
        ("DELETE", "/v2/_catalog", Err(Method)),
        ("PUT", "/oauth2/token", Err(Method)),
        ("GET", "/oauth2/exchange", Err(Method)),
    ]
};
