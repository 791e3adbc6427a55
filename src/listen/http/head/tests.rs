//! Heads and their verdicts, and the laws of the reader.

use proptest::prelude::*;

use super::*;
use crate::cases::heads::{Verdict, heads};

/// What the chunks are, up to the first that settles it.
fn verdict<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Verdict {
    let mut reader = HeadReader::default();
    for chunk in chunks {
        match reader.feed(chunk) {
            Ok(HeadProgress::NeedMore) => {}
            Ok(HeadProgress::Complete(_)) => return Verdict::Whole,
            Err(refused) => return Verdict::Wrong(refused.fault),
        }
    }
    Verdict::Half
}

#[test]
fn heads_and_their_verdicts() {
    for (head, expected) in heads() {
        let found = verdict([&*head]);
        assert_eq!(found, expected, "{:?}", String::from_utf8_lossy(&head));
    }
}

#[test]
fn the_verdict_does_not_depend_on_the_cuts() {
    for (head, expected) in heads() {
        for size in [1, 2, 7, 100] {
            let found = verdict(head.chunks(size));
            assert_eq!(found, expected, "{:?} in {size}s", String::from_utf8_lossy(&head));
        }
    }
}

#[test]
fn the_target_is_reported_if_there_is_one() {
    let refused = HeadReader::default().feed(b"CONNECT user@h:443 HTTP/1.0\r\n\r\n").unwrap_err();
    assert_eq!(refused.target.as_deref(), Some("user@h:443"));
    assert_eq!(refused.fault.denial().reason, Reason::BadTarget);
    let literal = HeadReader::default().feed(b"CONNECT 127.1:443 HTTP/1.0\r\n\r\n").unwrap_err();
    assert_eq!(literal.fault.denial().reason, Reason::IpLiteral);
}

#[test]
fn a_single_label_is_left_to_the_policy() {
    let head = b"CONNECT Edge-Parent:443 HTTP/1.1\r\nHost: edge-parent:443\r\n\r\n";
    let Ok(HeadProgress::Complete(head)) = HeadReader::default().feed(head) else {
        panic!("it is refused")
    };
    assert_eq!(head.target.to_string(), "edge-parent:443");
}

#[test]
fn a_host_that_differs_is_reported() {
    let head = b"CONNECT contoso.azurecr.io:443 HTTP/1.1\r\nHost: gate.example:3128\r\n\r\n";
    let refused = HeadReader::default().feed(head).unwrap_err();
    assert_eq!(refused.fault, HeadFault::HostDiffers);
    assert_eq!(refused.target.as_deref(), Some("contoso.azurecr.io:443"));
    assert_eq!(refused.host.as_deref(), Some("gate.example:3128"));
}

#[test]
fn another_method_is_refused_with_what_to_change() {
    for (target, remedy) in [
        ("https://contoso.azurecr.io/v2/", "set the client to tunnel https URLs"),
        ("http://contoso.azurecr.io/v2/", "use https; plain http is not proxied"),
        ("/v2/", "this is a proxy: set HTTPS_PROXY to it"),
        ("*", "no other method is proxied"),
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: contoso.azurecr.io\r\n\r\n");
        let refused = HeadReader::default().feed(head.as_bytes()).unwrap_err();
        let denial = refused.fault.denial();
        assert_eq!(denial.reason, Reason::MethodNotAllowed);
        assert_eq!(denial.remedy.as_deref(), Some(remedy), "{target}");
    }
}

proptest! {
    #[test]
    fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = HeadReader::default().feed(&bytes);
    }

    #[test]
    fn what_passes_is_what_a_naive_reader_sees(
        name in "[a-z]{1,9}\\.(io|com)", port in 1u16.., fields in "(X: [a-z ]{0,9}\r\n){0,4}",
    ) {
        let text = format!("CONNECT {name}:{port} HTTP/1.1\r\nHost: {name}\r\n{fields}\r\nrest");
        let fed = HeadReader::default().feed(text.as_bytes());
        let Ok(HeadProgress::Complete(head)) = fed else {
            return Err(TestCaseError::fail(text));
        };
        prop_assert_eq!(head.target.to_string(), format!("{name}:{port}"));
        prop_assert_eq!(text.get(head.length..), Some("rest"));
    }
}
