//! Heads and their verdicts, and the laws of the reader.

use proptest::prelude::*;

use super::*;
use crate::cases::heads::{Verdict, heads};

/// What the chunks are, up to the first that settles it.
fn verdict<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Verdict {
    let mut reader = HeadReader::default();
    for chunk in chunks {
        match reader.feed(chunk) {
            Ok(Progress::NeedMore) => {}
            Ok(Progress::Complete(_)) => return Verdict::Whole,
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
fn the_target_is_told_where_one_was_written() {
    let refused = HeadReader::default().feed(b"CONNECT user@h:443 HTTP/1.1\r\n\r\n").unwrap_err();
    assert_eq!(refused.target.as_deref(), Some("user@h:443"));
    assert_eq!(refused.fault.denial().reason, Reason::BadTarget);
    let literal = HeadReader::default().feed(b"CONNECT 127.1:443 HTTP/1.1\r\n\r\n").unwrap_err();
    assert_eq!(literal.fault.denial().reason, Reason::IpLiteral);
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
        let text = format!("CONNECT {name}:{port} HTTP/1.1\r\n{fields}\r\nrest");
        let fed = HeadReader::default().feed(text.as_bytes());
        let Ok(Progress::Complete(head)) = fed else {
            return Err(TestCaseError::fail(text));
        };
        prop_assert_eq!(head.target.to_string(), format!("{name}:{port}"));
        prop_assert_eq!(text.get(head.length..), Some("rest"));
    }
}
