//! The parent's answer to CONNECT, read byte by byte within bounds. Pure: bytes in, an answer out.
//!
//! Interim responses (1xx) are skipped. Fields are not interpreted: on a 2xx answer to CONNECT
//! `Content-Length` and `Transfer-Encoding` have no meaning (RFC 9110 §9.3.6), and what follows the
//! head belongs to the tunnel.

/// At most this many bytes are read of all heads together.
pub(super) const LARGEST_ANSWER: usize = 16 * 1024;

/// At most this many characters of a parent's reason phrase are passed on.
const LONGEST_PHRASE: usize = 60;

/// A final answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ConnectAnswer {
    pub(super) status: u16,
    /// The status and up to 60 printable characters of the reason phrase.
    pub(super) words: String,
}

/// Why some bytes are no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("not HTTP/1")]
    NotHttp,
    #[error("a malformed line")]
    Line,
    #[error("more than 16 KiB")]
    TooLarge,
    #[error("another protocol")]
    Switching,
    #[error("it broke off")]
    Incomplete,
}

/// What the bytes so far amount to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AnswerStep {
    /// All bytes that were fed are part of a head that is not complete.
    NeedMore,
    /// The head is complete. Of the bytes that were fed last, `used` belong to it.
    Complete { answer: ConnectAnswer, used: usize },
}

/// Reads an answer as it arrives. The result does not depend on how the bytes are segmented.
#[derive(Debug, Default)]
pub(super) struct AnswerReader {
    /// The bytes of the current head.
    head: Vec<u8>,
    /// The bytes of all heads so far.
    total: usize,
}

impl AnswerReader {
    /// Whether a byte has arrived.
    pub(super) fn has_begun(&self) -> bool {
        self.total > 0
    }

    /// Takes the next bytes.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<AnswerStep, Malformed> {
        for (at, &byte) in bytes.iter().enumerate() {
            if self.total == LARGEST_ANSWER {
                return Err(Malformed::TooLarge);
            }
            self.total += 1;
            self.push(byte)?;
            if !self.head.ends_with(b"\r\n\r\n") {
                continue;
            }
            let answer = answer(&std::mem::take(&mut self.head))?;
            match answer.status {
                101 => return Err(Malformed::Switching),
                100..=199 => {}
                _ => return Ok(AnswerStep::Complete { answer, used: at + 1 }),
            }
        }
        Ok(AnswerStep::NeedMore)
    }

    fn push(&mut self, byte: u8) -> Result<(), Malformed> {
        const START: &[u8] = b"HTTP/1.";
        let at = self.head.len();
        if START.get(at).is_some_and(|expected| *expected != byte) {
            return Err(Malformed::NotHttp);
        }
        let after_return = self.head.last() == Some(&b'\r');
        let is_allowed = match byte {
            b'\n' => after_return,
            b'\r' | b'\t' => !after_return,
            _ => !after_return && byte >= b' ' && byte != 0x7f,
        };
        if !is_allowed {
            return Err(Malformed::Line);
        }
        self.head.push(byte);
        Ok(())
    }
}

/// Reads the status line of a complete head.
fn answer(head: &[u8]) -> Result<ConnectAnswer, Malformed> {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let (version, rest) = line.split_at_checked("HTTP/1.1".len()).ok_or(Malformed::NotHttp)?;
    if !version.last().is_some_and(u8::is_ascii_digit) {
        return Err(Malformed::NotHttp);
    }
    let rest = rest.strip_prefix(b" ").ok_or(Malformed::Line)?;
    let (code, phrase) = rest.split_at_checked(3).ok_or(Malformed::Line)?;
    let status =
        std::str::from_utf8(code).ok().filter(|code| code.bytes().all(|b| b.is_ascii_digit()));
    let status: u16 = status.and_then(|code| code.parse().ok()).ok_or(Malformed::Line)?;
    let phrase = match phrase {
        [] => phrase,
        [b' ', phrase @ ..] => phrase,
        _ => return Err(Malformed::Line),
    };
    if !(100..=599).contains(&status) {
        return Err(Malformed::Line);
    }
    let printable = phrase.iter().map(|byte| match byte {
        b' '..=b'~' => char::from(*byte),
        _ => '?',
    });
    let phrase: String = printable.take(LONGEST_PHRASE).collect();
    Ok(ConnectAnswer { status, words: format!("{status} {}", phrase.trim()).trim_end().to_owned() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What all bytes at once amount to: status, words and the length of the heads.
    fn read(bytes: &[u8]) -> Result<Option<(u16, String, usize)>, Malformed> {
        match AnswerReader::default().feed(bytes)? {
            AnswerStep::NeedMore => Ok(None),
            AnswerStep::Complete { answer, used } => Ok(Some((answer.status, answer.words, used))),
        }
    }

    #[test]
    fn answers_of_parents() {
        let done = |status, words: &str, used| Ok(Some((status, words.to_owned(), used)));
        let cases: &[(&[u8], _)] = &[
            (
                b"HTTP/1.1 200 Connection established\r\n\r\n",
                done(200, "200 Connection established", 39),
            ),
            (b"HTTP/1.0 200\r\n\r\n\x16\x03", done(200, "200", 16)),
            (b"HTTP/1.1 204 \r\nContent-Length: 5\r\n\r\nhello", done(204, "204", 36)),
            (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", done(200, "200 OK", 44)),
            (
                b"HTTP/1.1 103 E\r\nLink: a\r\n\r\nHTTP/1.1 407 Who\r\n\r\n",
                done(407, "407 Who", 47),
            ),
            (b"HTTP/1.1 403 For\xfcb\xe9\r\n\r\n", done(403, "403 For?b?", 23)),
            (b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n", done(302, "302 Found", 36)),
            (b"HTTP/1.1 200 OK\r\n", Ok(None)),
            (b"", Ok(None)),
            (b"HTTP/1.1 101 Switching\r\n\r\n", Err(Malformed::Switching)),
            (b"HTTP/2 200\r\n\r\n", Err(Malformed::NotHttp)),
            (b"SSH-2.0-OpenSSH\r\n", Err(Malformed::NotHttp)),
            (b"\x15\x03\x01\0\x02\x02\x46", Err(Malformed::NotHttp)),
            (b"HTTP/1.1 200 OK\n\n", Err(Malformed::Line)),
            (b"HTTP/1.1 200 OK\r\rx", Err(Malformed::Line)),
            (b"HTTP/1.1 200 O\0K\r\n\r\n", Err(Malformed::Line)),
            (b"HTTP/1.1 2000 OK\r\n\r\n", Err(Malformed::Line)),
            (b"HTTP/1.1 20 OK\r\n\r\n", Err(Malformed::Line)),
            (b"HTTP/1.1 +20 OK\r\n\r\n", Err(Malformed::Line)),
            (b"HTTP/1.1 600 OK\r\n\r\n", Err(Malformed::Line)),
            (b"HTTP/1.1  200 OK\r\n\r\n", Err(Malformed::Line)),
            (b"HTTP/1.x 200 OK\r\n\r\n", Err(Malformed::NotHttp)),
            (b"\r\n\r\n", Err(Malformed::NotHttp)),
        ];
        for (bytes, expected) in cases {
            assert_eq!(read(bytes), *expected, "{:?}", String::from_utf8_lossy(bytes));
        }
        let long = format!("HTTP/1.1 403 {}\r\n\r\n", "x".repeat(500));
        assert_eq!(read(long.as_bytes()).unwrap().unwrap().1.len(), "403 ".len() + LONGEST_PHRASE);
        let endless = format!("HTTP/1.1 200 OK\r\n{}", "a: b\r\n".repeat(LARGEST_ANSWER));
        assert_eq!(read(endless.as_bytes()), Err(Malformed::TooLarge));
        let interims = "HTTP/1.1 100 x\r\n\r\n".repeat(LARGEST_ANSWER);
        assert_eq!(read(interims.as_bytes()), Err(Malformed::TooLarge));
    }

    fn line() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            Just(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()),
            Just(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()),
            Just(b"HTTP/1.1 503 Busy\r\nContent-Length: 3\r\n\r\nabc".to_vec()),
            Just(b"HTTP/1.0 200\r\nX: ".to_vec()),
            prop::collection::vec(any::<u8>(), 0..40),
        ]
    }

    proptest! {
        /// However the bytes are cut, the answer is the same, and so is where the tunnel begins.
        #[test]
        fn segmentation_changes_nothing(
            parts in prop::collection::vec(line(), 0..4), cuts in prop::collection::vec(1usize..20, 1..20),
        ) {
            let bytes = parts.concat();
            let whole = read(&bytes);
            let (mut reader, mut at, mut cut) = (AnswerReader::default(), 0, cuts.iter().cycle());
            let pieces = loop {
                if at >= bytes.len() {
                    break Ok(None);
                }
                let end = (at + cut.next().unwrap()).min(bytes.len());
                match reader.feed(&bytes[at..end]) {
                    Err(fault) => break Err(fault),
                    Ok(AnswerStep::Complete { answer, used }) => {
                        break Ok(Some((answer.status, answer.words, at + used)));
                    }
                    Ok(AnswerStep::NeedMore) => at = end,
                }
            };
            prop_assert_eq!(whole, pieces);
        }

        #[test]
        fn words_are_short_and_printable(phrase in prop::collection::vec(any::<u8>(), 0..200)) {
            let bytes = [b"HTTP/1.1 403 ", &phrase[..], b"\r\n\r\n"].concat();
            if let Ok(Some((_, words, _))) = read(&bytes) {
                prop_assert!(words.len() <= 4 + LONGEST_PHRASE);
                prop_assert!(words.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            }
        }
    }
}
