//! First hellos: legal ones, hostile ones, and the laws of the reader.

use proptest::prelude::*;
use rustls::server::Acceptor;

use crate::cases::cut;
use crate::cases::drafts::{Draft, NAME, message, record, records, vector16};
use crate::cases::hellos::{hostile, legal, samples};
use crate::hello::{Hello, HelloFault, HelloReader, HelloStep};
use crate::policy::{Limits, Reason};

/// Feeds the chunks, and goes on after the hello is complete.
fn read<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<HelloStep, HelloFault> {
    let mut reader = HelloReader::new();
    let mut last = HelloStep::NeedMore;
    for chunk in chunks {
        match reader.feed(chunk)? {
            HelloStep::NeedMore => {}
            complete => last = complete,
        }
    }
    Ok(last)
}

fn read_whole(bytes: &[u8]) -> Result<HelloStep, HelloFault> {
    read([bytes])
}

fn accepted(bytes: &[u8]) -> Hello {
    match read_whole(bytes) {
        Ok(HelloStep::Complete(hello)) => hello,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_single_label_is_left_to_the_policy() {
    let hello = accepted(&Draft::modern().named("Edge-Parent").records());
    assert_eq!(hello.facts.server_name().as_str(), "edge-parent");
}

#[test]
fn legal_hellos_pass() {
    for (case, bytes) in legal() {
        for (chunking, found) in [
            ("whole", read_whole(&bytes)),
            ("by bytes", read(bytes.chunks(1))),
            ("by sevens", read(bytes.chunks(7))),
            ("at random", read(cut(&bytes, 1))),
        ] {
            let Ok(HelloStep::Complete(hello)) = found else {
                panic!("{case}, {chunking}: {found:?}")
            };
            assert_eq!(hello.facts.server_name().as_str(), NAME, "{case}");
            assert_eq!(rejoin(&hello.raw), rejoin(&bytes), "{case}");
            let records = hello.raw.len().div_ceil(5 + (1 << 14));
            assert_eq!(
                hello.raw.len(),
                rejoin(&bytes).len() + 5 * records,
                "{case}: fewest records"
            );
            assert!(matches!(hello.raw[1..3], [3, 1..=3]), "{case}: a version of TLS");
        }
    }
}

#[test]
fn hostile_hellos_do_not() {
    for (case, bytes, fault) in hostile() {
        for (chunking, found) in [
            ("whole", read_whole(&bytes)),
            ("by bytes", read(bytes.chunks(1))),
            ("by sevens", read(bytes.chunks(7))),
            ("at random", read(cut(&bytes, 2))),
        ] {
            assert_eq!(found, Err(fault), "{case}, {chunking}");
        }
    }
}

/// Issue 17: HAProxy's `req.ssl_sni` reads a hello in one record only, so that none of up to 16 KiB
/// may be sent on in more.
#[test]
fn a_hello_of_the_default_limit_goes_out_in_one_record() {
    let limit = Limits::default().hello_bytes;
    let modern = Draft::modern();
    let padded = |size: usize| {
        let rest = size - modern.message().len() - 4;
        modern.clone().with(21, &vec![0; rest]).message()
    };
    for (size, chunk, expected) in [
        (limit, 1 << 14, None),
        (limit, 100, None),
        (limit + 1, 100, Some(HelloFault::TooLarge(u32::try_from(limit + 1 - 4).unwrap()))),
    ] {
        let read = HelloReader::with_limit(limit).feed(&records(&padded(size), chunk));
        match (read, expected) {
            (Ok(HelloStep::Complete(hello)), None) => {
                assert_eq!(hello.raw, [&[22, 3, 3, 0x40, 0], &*padded(size)].concat());
            }
            (read, expected) => assert_eq!(read.err(), expected, "{size} bytes"),
        }
    }
}

#[test]
fn each_reason_is_reported() {
    let reason =
        |wanted: &str| hostile().into_iter().find(|(case, ..)| *case == wanted).unwrap().2.reason();
    for (case, expected) in [
        ("HTTP", Reason::NotTls),
        ("SSLv2", Reason::NotTls),
        ("version 2 of a record", Reason::NotTls),
        ("TLS 1.1", Reason::TlsTooOld),
        ("1.0 and 1.1 in supported_versions", Reason::TlsTooOld),
        ("64 KiB and one declared", Reason::HelloTooLarge),
        ("64 KiB in records of one byte", Reason::HelloTooLarge),
        ("no name", Reason::SniMissing),
        ("without extensions", Reason::SniMissing),
        ("empty name", Reason::SniMissing),
        ("an IPv4 address", Reason::IpLiteral),
        ("NUL", Reason::HelloMalformed),
        ("two names", Reason::HelloMalformed),
        ("ECH", Reason::EncryptedClientHello),
        ("ESNI", Reason::EncryptedClientHello),
        ("early data", Reason::EarlyData),
        ("a second hello appended", Reason::HelloMalformed),
    ] {
        assert_eq!(reason(case), expected, "{case}");
    }
}

#[test]
fn input_that_is_not_tls_is_rejected_by_its_first_byte() {
    for first in (0..=255).filter(|byte| *byte != 22) {
        assert_eq!(read_whole(&[first]), Err(HelloFault::NotTls), "{first}");
    }
    assert_eq!(read_whole(&[22]), Ok(HelloStep::NeedMore));
}

#[test]
fn a_size_is_denied_once_it_is_declared() {
    let declared = [22, 3, 1, 0, 200, 1, 0, 0xff, 0xfd];
    assert_eq!(read_whole(&declared[..8]), Ok(HelloStep::NeedMore));
    assert_eq!(read_whole(&declared), Err(HelloFault::TooLarge(0xfffd)));
}

#[test]
fn a_legal_hellos_prefixes_need_more() {
    for (case, bytes) in legal() {
        // A sample: fed byte by byte, above, every prefix is tried.
        let step = 1 + bytes.len() / 100;
        for end in (0..bytes.len()).step_by(step) {
            assert_eq!(read_whole(&bytes[..end]), Ok(HelloStep::NeedMore), "{case}, {end}");
        }
    }
}

#[test]
fn a_fault_stays() {
    let mut reader = HelloReader::new();
    assert_eq!(reader.feed(b"x"), Err(HelloFault::NotTls));
    assert_eq!(reader.feed(&Draft::modern().records()), Err(HelloFault::NotTls));
    let mut reader = HelloReader::new();
    assert!(matches!(reader.feed(&Draft::modern().records()), Ok(HelloStep::Complete(_))));
    assert_eq!(reader.feed(b""), Ok(HelloStep::NeedMore));
    assert_eq!(reader.feed(b"x"), Err(HelloFault::BytesBehind));
}

#[test]
fn facts_are_those_of_the_hello() {
    let modern = accepted(&Draft::modern().records()).facts;
    assert!(modern.offers_tls12() && modern.offers_tls13());
    assert_eq!(modern.session_id(), [8; 32]);
    let only13 = accepted(&Draft::modern().with(43, &[2, 3, 4]).records()).facts;
    assert!(!only13.offers_tls12() && only13.offers_tls13());
    let classic = accepted(&Draft::classic().records()).facts;
    assert!(classic.offers_tls12() && !classic.offers_tls13());
}

/// What tls-parser reads in a message: the names. `None`: it rejects an extension whose content
/// does not concern us.
fn dissect(message: &[u8]) -> Option<Vec<(u8, Vec<u8>)>> {
    use tls_parser::{TlsExtension, TlsMessage, TlsMessageHandshake};
    let (_, parsed) = tls_parser::parse_tls_message_handshake(message).unwrap();
    let TlsMessage::Handshake(TlsMessageHandshake::ClientHello(hello)) = parsed else {
        panic!("{parsed:?}")
    };
    let (rest, extensions) = tls_parser::parse_tls_extensions(hello.ext.unwrap()).unwrap();
    if !rest.is_empty() {
        return None;
    }
    let names = extensions.into_iter().filter_map(|extension| match extension {
        TlsExtension::SNI(names) => Some(names),
        _ => None,
    });
    Some(names.flatten().map(|(kind, name)| (kind.0, name.to_vec())).collect())
}

/// The message in records, rejoined in the plainest way.
fn rejoin(mut raw: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    while !raw.is_empty() {
        let length = usize::from(raw[3]) << 8 | usize::from(raw[4]);
        message.extend_from_slice(&raw[5..5 + length]);
        raw = &raw[5 + length..];
    }
    message
}

/// What we accept, others accept, and read the same name in it.
fn others_agree(hello: &Hello) {
    let name = hello.facts.server_name().as_str();
    let message = rejoin(&hello.raw);
    if let Some(dissected) = dissect(&message) {
        assert_eq!(dissected.len(), 1);
        assert_eq!(dissected[0].0, 0);
        assert_eq!(dissected[0].1.to_ascii_lowercase(), name.as_bytes());
    }
    let mut acceptor = Acceptor::default();
    for record in records(&message, 1 << 14).chunks((1 << 14) + 5) {
        let mut record = record;
        while !record.is_empty() && acceptor.read_tls(&mut record).is_ok() {}
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(found)) => {
                assert_eq!(found.client_hello().server_name(), Some(name));
                return;
            }
            Err((rustls::Error::PeerIncompatible(_), _)) => return,
            Err((error, _)) => panic!("{error}"),
        }
    }
}

#[test]
fn others_agree_on_what_is_legal() {
    for (case, bytes) in legal() {
        if !case.starts_with("64 KiB") {
            let hello = accepted(&bytes);
            assert!(dissect(&rejoin(&hello.raw)).is_some(), "{case}");
            others_agree(&hello);
        }
    }
}

/// A hello with a few bytes changed, taken out or put in.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let cases: Vec<Vec<u8>> = samples()
        .into_iter()
        .map(|(_, bytes)| bytes)
        .chain([Draft::modern().records(), records(&Draft::classic().message(), 40)])
        .collect();
    let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 0..4);
    (prop::sample::select(cases), edits).prop_map(|(mut bytes, edits)| {
        for (at, byte, edit) in edits {
            let at = at.index(bytes.len());
            match edit {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        bytes
    })
}

/// Partitions of a message into records.
fn partition() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![1..4_usize, 1..400_usize], 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_verdict_is_blind_to_chunks(bytes in mutated(), seed in any::<u64>()) {
        let whole = read_whole(&bytes);
        prop_assert_eq!(&read(bytes.chunks(1)), &whole);
        prop_assert_eq!(&read(cut(&bytes, seed)), &whole);
    }

    #[test]
    fn the_verdict_is_blind_to_records(bytes in mutated(), sizes in partition()) {
        let Ok(HelloStep::Complete(hello)) = read_whole(&bytes) else { return Ok(()) };
        let message = rejoin(&bytes);
        let mut rest = message.as_slice();
        let mut split = Vec::new();
        for size in sizes.iter().cycle() {
            if rest.is_empty() { break }
            let (payload, behind) = rest.split_at((*size).min(rest.len()));
            split.extend(record(22, payload));
            rest = behind;
        }
        let again = accepted(&split);
        prop_assert_eq!(again.facts, hello.facts);
        prop_assert_eq!(rejoin(&again.raw), message);
        prop_assert_eq!(again.raw.len(), hello.raw.len());
    }

    #[test]
    fn others_accept_what_we_do(bytes in mutated()) {
        if let Ok(HelloStep::Complete(hello)) = read_whole(&bytes) {
            others_agree(&hello);
        }
    }

    #[test]
    fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_whole(&bytes);
        let _ = read_whole(&[&[22, 3, 1, 1, 0], &*bytes].concat());
        let _ = read_whole(&record(22, &message(1, &bytes)));
        let body = [Draft::modern().beginning(), vector16(&bytes)].concat();
        let _ = read_whole(&record(22, &message(1, &body)));
    }
}
