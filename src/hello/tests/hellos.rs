//! First hellos: legal ones, hostile ones, and the laws of the reader.

use proptest::prelude::*;
use rustls::server::Acceptor;

use super::drafts::{Draft, NAME, message, names, record, records, vector8, vector16};
use crate::hello::message::LARGEST_MESSAGE;
use crate::hello::{Hello, HelloFault, HelloReader, MOST_EXTENSIONS, RecordFault, Step};
use crate::policy::{NameError, Reason};

macro_rules! sample {
    ($name:literal) => {
        ($name, include_bytes!(concat!("samples/", $name, ".bin")).to_vec())
    };
}

/// Hellos that real clients have sent, each in one record.
fn samples() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        sample!("curl"),
        sample!("node"),
        sample!("openssl"),
        sample!("openssl-tls12"),
        sample!("openssl-tls13"),
        sample!("python"),
        sample!("python-tls12-resumed"),
        sample!("python-tls13-resumed"),
        sample!("skopeo-go"),
        sample!("wget-gnutls"),
    ]
}

/// Feeds the chunks, and goes on after the hello is complete.
fn read<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<Step, HelloFault> {
    let mut reader = HelloReader::new();
    let mut last = Step::NeedMore;
    for chunk in chunks {
        match reader.feed(chunk)? {
            Step::NeedMore => {}
            complete => last = complete,
        }
    }
    Ok(last)
}

fn read_whole(bytes: &[u8]) -> Result<Step, HelloFault> {
    read([bytes])
}

fn accepted(bytes: &[u8]) -> Hello {
    match read_whole(bytes) {
        Ok(Step::Complete(hello)) => hello,
        other => panic!("{other:?}"),
    }
}

/// Cuts bytes at places that `seed` picks.
pub(super) fn cut(mut bytes: &[u8], mut seed: u64) -> Vec<&[u8]> {
    let mut chunks = Vec::new();
    while !bytes.is_empty() {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let most = if seed & (1 << 40) == 0 { 7 } else { 700 };
        let length = (1 + (seed >> 33) as usize % most).min(bytes.len());
        let (chunk, rest) = bytes.split_at(length);
        chunks.push(chunk);
        bytes = rest;
    }
    chunks
}

fn legal() -> Vec<(&'static str, Vec<u8>)> {
    let modern = Draft::modern();
    let grease = Draft {
        suites: [&[0x0a, 0x0a], &*modern.suites].concat(),
        extensions: [
            vec![(0x1a1a, vec![])],
            modern.clone().with(43, &[6, 0xea, 0xea, 3, 4, 3, 3]).extensions,
            vec![(0xbaba, vec![0])],
        ]
        .concat(),
        ..modern.clone()
    };
    let x25519 = [vec![0, 0x1d], vector16(&[9; 32])].concat();
    let hybrid = [vec![0x11, 0xec], vector16(&[9; 1216]), x25519].concat();
    let mut cases = vec![
        ("modern", modern.records()),
        ("classic", Draft::classic().records()),
        ("upper case", modern.clone().named("CONTOSO.AzureCR.io").records()),
        ("GREASE", grease.records()),
        ("X25519MLKEM768", modern.clone().with(51, &vector16(&hybrid)).records()),
        ("empty key_share", modern.clone().with(51, &[0, 0]).records()),
        ("padding", modern.clone().with(21, &[0; 400]).records()),
        ("15 KiB", modern.clone().with(21, &[0; 15 * 1024]).records()),
        ("40 KiB", modern.clone().with(21, &[0; 40 * 1024]).records()),
        ("15 KiB of tickets", modern.clone().with(35, &[1; 15 * 1024]).records()),
        ("256 extensions", extended(MOST_EXTENSIONS)),
        ("an unknown extension", modern.clone().with(0x7777, &[1, 2, 3]).records()),
        ("resumption", modern.clone().resuming().records()),
        ("no session id", Draft { session_id: vec![], ..modern.clone() }.records()),
        ("a cookie", modern.clone().with(44, &vector16(&[1; 100])).records()),
        ("1.3 only", modern.clone().with(43, &[2, 3, 4]).records()),
        ("1.2 in supported_versions", modern.clone().with(43, &[2, 3, 3]).records()),
        ("old versions beside", modern.clone().with(43, &[8, 3, 4, 3, 3, 3, 2, 3, 1]).records()),
        ("empty ticket", Draft::classic().with(35, &[]).records()),
        ("1.2 without signature_algorithms", Draft::classic().without(13).records()),
        ("DEFLATE beside null", Draft { compression: vec![1, 0], ..Draft::classic() }.records()),
        ("next_protocol_negotiation", Draft::classic().with(13172, &[]).records()),
        ("records of one byte", records(&modern.message(), 1)),
        ("15 KiB in records of one byte", {
            records(&modern.clone().with(21, &[0; 15 * 1024]).message(), 1)
        }),
        ("64 KiB", largest().records()),
        ("64 KiB in records of 200 bytes", records(&largest().message(), 200)),
        ("first record of 3.1", {
            let mut bytes = modern.records();
            bytes[2] = 1;
            bytes
        }),
    ];
    cases.extend(samples());
    cases
}

/// As large as a hello may be.
fn largest() -> Draft {
    let draft = Draft::modern();
    let rest = LARGEST_MESSAGE - draft.message().len() - 4;
    draft.with(21, &vec![0; rest])
}

/// With so many extensions.
fn extended(count: usize) -> Vec<u8> {
    let mut draft = Draft::modern();
    for kind in 0x7000.. {
        if draft.extensions.len() == count {
            break;
        }
        draft = draft.with(kind, b"");
    }
    draft.records()
}

fn hostile() -> Vec<(&'static str, Vec<u8>, HelloFault)> {
    use HelloFault::*;
    let modern = Draft::modern;
    let name = NAME.as_bytes();
    let with_name = |entries: &[(u8, &[u8])]| modern().with(0, &names(entries)).records();
    let named = |name: &str| modern().named(name).records();
    let with_block =
        |block: &[u8]| record(22, &message(1, &[modern().beginning(), block.to_vec()].concat()));
    let of_body = |body: &[u8]| record(22, &message(1, body));
    let half = |behind: &[u8]| {
        let message = modern().message();
        [record(22, &message[..50]), behind.to_vec(), record(22, &message[50..])].concat()
    };
    let patched = |at: usize, byte: u8| {
        let mut bytes = modern().records();
        bytes[at] = byte;
        bytes
    };
    let beginning_with = |change: fn(&mut Draft)| {
        let mut draft = modern();
        change(&mut draft);
        draft.records()
    };
    vec![
        // What is no TLS.
        ("HTTP", b"GET / HTTP/1.1\r\n".to_vec(), NotTls),
        ("SSH", b"SSH-2.0-OpenSSH_9\r\n".to_vec(), NotTls),
        ("SSLv2", vec![0x80, 0x2e, 1, 3, 1, 0, 0x15, 0, 0, 0, 0x10], NotTls),
        ("a zero", vec![0], NotTls),
        ("application data", record(23, b"data"), NotTls),
        ("an alert", record(21, &[2, 40]), NotTls),
        ("a change_cipher_spec", record(20, &[1]), NotTls),
        ("a heartbeat", record(24, &[1, 0x40, 0]), NotTls),
        ("a lucky 22", b"\x16\x16\x16".to_vec(), NotTls),
        ("DTLS", vec![22, 0xfe, 0xfd, 0, 0], NotTls),
        // Records.
        ("SSL 3's record", patched(2, 0), Record(RecordFault::Ssl3)),
        ("TLS 1.3's record", patched(2, 4), Record(RecordFault::Minor(4))),
        ("an empty record first", [record(22, b""), modern().records()].concat(), {
            Record(RecordFault::Empty)
        }),
        ("an empty record within", half(&record(22, b"")), Record(RecordFault::Empty)),
        ("an empty alert within", half(&record(21, b"")), Interleaved),
        ("an alert within", half(&record(21, &[1, 112])), Interleaved),
        ("a change_cipher_spec within", half(&record(20, &[1])), Interleaved),
        ("application data within", half(&record(23, b"x")), Interleaved),
        ("an unknown record within", half(&record(99, b"x")), Interleaved),
        ("another major within", half(&[22, 4, 3, 0, 1, 0]), Record(RecordFault::Major(4))),
        ("a long record", [22, 3, 1, 0x40, 1].to_vec(), Record(RecordFault::TooLong(0x4001))),
        ("the longest record", [22, 3, 1, 0xff, 0xff].to_vec(), {
            Record(RecordFault::TooLong(0xffff))
        }),
        // Messages.
        ("a ServerHello", record(22, &message(2, &modern().body())), NotClientHello(2)),
        ("a HelloRequest", record(22, &message(0, b"")), NotClientHello(0)),
        ("a Finished", record(22, &message(20, &[1; 12])), NotClientHello(20)),
        ("an empty hello", of_body(b""), Short),
        ("16 MiB declared", record(22, &[1, 0xff, 0xff, 0xff]), TooLarge(0xff_ffff)),
        ("64 KiB and one declared", record(22, &[1, 0, 0xff, 0xfd]), TooLarge(0xfffd)),
        ("64 KiB in records of one byte", records(&largest().message(), 1), TooManyRecords),
        (
            "a second message in the record",
            { record(22, &[modern().message(), message(1, &modern().body())].concat()) },
            MessageBehind,
        ),
        (
            "one byte more in the record",
            { record(22, &[modern().message(), vec![0]].concat()) },
            MessageBehind,
        ),
        (
            "a second hello appended",
            { [modern().records(), modern().named("evil.example.com").records()].concat() },
            BytesBehind,
        ),
        ("application data appended", [modern().records(), record(23, b"x")].concat(), BytesBehind),
        ("an alert appended", [modern().records(), record(21, &[1, 0])].concat(), BytesBehind),
        ("a byte appended", [modern().records(), vec![22]].concat(), BytesBehind),
        // Up to the extensions.
        ("SSL 3", beginning_with(|draft| draft.version = 0x0300), TooOld),
        ("TLS 1.0", beginning_with(|draft| draft.version = 0x0301), TooOld),
        ("TLS 1.1", beginning_with(|draft| draft.version = 0x0302), TooOld),
        (
            "version 0x0304",
            { beginning_with(|draft| draft.version = 0x0304) },
            LegacyVersion(0x0304),
        ),
        (
            "version 0xfefd",
            { beginning_with(|draft| draft.version = 0xfefd) },
            LegacyVersion(0xfefd),
        ),
        ("cut in the version", of_body(&modern().body()[..1]), Short),
        ("cut in the random", of_body(&modern().body()[..20]), Short),
        ("cut in the session id", of_body(&modern().body()[..40]), Short),
        (
            "a session id of 33",
            { beginning_with(|draft| draft.session_id = vec![1; 33]) },
            SessionId(33),
        ),
        ("no cipher suites", beginning_with(|draft| draft.suites.clear()), CipherSuites),
        ("half a cipher suite", beginning_with(|draft| draft.suites.push(1)), CipherSuites),
        ("cut in the cipher suites", of_body(&modern().body()[..70]), CipherSuites),
        ("no compression", beginning_with(|draft| draft.compression.clear()), Compression),
        ("cut before compression", of_body(&modern().body()[..75]), Compression),
        ("no null compression", beginning_with(|draft| draft.compression = vec![1]), Compresses),
        ("1.3 with DEFLATE", beginning_with(|draft| draft.compression = vec![1, 0]), Compresses),
        // The extensions.
        ("without extensions", of_body(&modern().beginning()), NoName),
        ("an empty block", with_block(&[0, 0]), NoName),
        ("half a length", with_block(&[0]), ExtensionsLength),
        (
            "a block too long",
            { with_block(&[vector16(&modern().block()), vec![0]].concat()) },
            ExtensionsLength,
        ),
        (
            "a block too short",
            {
                let mut block = vector16(&modern().block());
                block[1] += 1;
                with_block(&block)
            },
            ExtensionsLength,
        ),
        (
            "half an extension",
            { with_block(&vector16(&[modern().block(), vec![0, 21, 0]].concat())) },
            ExtensionLength,
        ),
        (
            "an extension past the end",
            { with_block(&vector16(&[modern().block(), vec![0, 21, 0, 9, 0]].concat())) },
            ExtensionLength,
        ),
        ("no max_fragment_length", modern().with(1, b"").records(), ExtensionSize(1)),
        ("a long encrypt_then_mac", modern().with(22, b"x").records(), ExtensionSize(22)),
        ("half a record_size_limit", modern().with(28, b"x").records(), ExtensionSize(28)),
        ("257 extensions", extended(MOST_EXTENSIONS + 1), TooManyExtensions),
        ("padding twice", modern().with(21, b"").twice(21, b"").records(), Duplicate(21)),
        (
            "GREASE twice",
            { modern().with(0x0a0a, b"").twice(0x0a0a, b"").records() },
            Duplicate(0x0a0a),
        ),
        ("key_share twice", modern().twice(51, &[0, 0]).records(), Duplicate(51)),
        (
            "the last type twice",
            { modern().with(0xffff, b"").twice(0xffff, b"").records() },
            Duplicate(0xffff),
        ),
        ("versions twice", modern().twice(43, &[2, 3, 4]).records(), Duplicate(43)),
        // The name.
        ("no name", modern().without(0).records(), NoName),
        ("name twice", modern().twice(0, &names(&[(0, name)])).records(), Duplicate(0)),
        (
            "other name twice",
            { modern().twice(0, &names(&[(0, b"evil.example.com")])).records() },
            Duplicate(0),
        ),
        ("empty server_name", modern().with(0, b"").records(), NameLength),
        ("empty name list", with_name(&[]), EmptyName),
        ("empty name", with_name(&[(0, b"")]), EmptyName),
        ("two names", with_name(&[(0, name), (0, b"evil.example.com")]), SecondName),
        ("the name twice in the list", with_name(&[(0, name), (0, name)]), SecondName),
        ("a second type", with_name(&[(0, name), (1, b"x")]), SecondName),
        ("an empty second", with_name(&[(0, name), (0, b"")]), SecondName),
        ("another type first", with_name(&[(1, b"x"), (0, name)]), NameKind(1)),
        ("another type only", with_name(&[(255, name)]), NameKind(255)),
        (
            "name list too long",
            { modern().with(0, &[names(&[(0, name)]), vec![0]].concat()).records() },
            NameLength,
        ),
        (
            "name list too short",
            modern().with(0, &[0, 9, 0, 0, 2, b'a', b'b']).records(),
            NameLength,
        ),
        (
            "name past its list",
            modern().with(0, &[0, 5, 0, 0, 9, b'a', b'b']).records(),
            NameLength,
        ),
        ("name without length", modern().with(0, &[0, 1, 0]).records(), NameLength),
        ("trailing dot", named("contoso.azurecr.io."), Name(NameError::TrailingDot)),
        ("leading dot", named(".contoso.azurecr.io"), Name(NameError::LabelLength)),
        ("NUL", named("contoso.azurecr.io\0.evil.com"), Name(NameError::Character)),
        ("NUL last", named("contoso.azurecr.io\0"), Name(NameError::Character)),
        ("a space", named("contoso.azurecr.io "), Name(NameError::Character)),
        ("a newline", named("contoso.azurecr.io\n"), Name(NameError::Character)),
        ("UTF-8", named("c\u{f6}ntoso.azurecr.io"), Name(NameError::Character)),
        ("not UTF-8", with_name(&[(0, b"contoso\xff.io")]), Name(NameError::Character)),
        ("an underscore", named("con_toso.azurecr.io"), Name(NameError::Character)),
        ("a wildcard", named("*.azurecr.io"), Name(NameError::Wildcard)),
        ("one label", named("localhost"), Name(NameError::SingleLabel)),
        ("an IPv4 address", named("10.1.0.4"), Name(NameError::IpLiteral)),
        ("a short IPv4 address", named("127.1"), Name(NameError::IpLiteral)),
        ("an IPv6 address", named("2001:db8::1"), Name(NameError::IpLiteral)),
        ("254 octets", named(&format!("{}io", "a.".repeat(126))), Name(NameError::TooLong)),
        ("a name and its port", named("contoso.azurecr.io:443"), Name(NameError::IpLiteral)),
        // Versions.
        (
            "1.0 and 1.1 in supported_versions",
            { modern().with(43, &[4, 3, 1, 3, 2]).records() },
            TooOld,
        ),
        ("drafts in supported_versions", modern().with(43, &[2, 0x7f, 0x1c]).records(), TooOld),
        ("GREASE in supported_versions", modern().with(43, &[2, 0xfa, 0xfa]).records(), TooOld),
        ("empty supported_versions", modern().with(43, b"").records(), Versions),
        ("empty list of versions", modern().with(43, &[0]).records(), Versions),
        ("half a version", modern().with(43, &[3, 3, 4, 3]).records(), Versions),
        ("versions too long", modern().with(43, &[2, 3, 4, 0]).records(), Versions),
        ("versions too short", modern().with(43, &[4, 3, 4]).records(), Versions),
        // What hides or hurries.
        ("ECH", modern().with(0xfe0d, &[0; 60]).records(), Encrypted(0xfe0d)),
        ("an inner ECH", modern().with(0xfe0d, &[1]).records(), Encrypted(0xfe0d)),
        ("ECH of draft 10", modern().with(0xfe0a, &[0; 60]).records(), Encrypted(0xfe0a)),
        ("outer extensions", modern().with(0xfd00, &[2, 0, 10]).records(), Encrypted(0xfd00)),
        ("ESNI", modern().with(0xffce, &[0; 60]).records(), Encrypted(0xffce)),
        ("early data", modern().with(42, b"").resuming().records(), EarlyData),
        ("early data without a key", modern().with(42, b"").records(), EarlyData),
        ("a key that is not last", modern().resuming().with(21, b"").records(), KeyNotLast),
        ("a renegotiation", Draft::classic().with(0xff01, &vector8(&[1; 12])).records(), {
            Renegotiates
        }),
        ("an empty renegotiation_info", Draft::classic().with(0xff01, b"").records(), Renegotiates),
        // What rustls knows of extensions.
        ("an ALPN past its end", modern().with(16, &[0, 5, 2, b'h', b'2']).records(), Refused),
        ("a key_share past its end", modern().with(51, &[0, 9, 0, 0x1d]).records(), Refused),
        ("groups with surplus", modern().with(10, &[0, 2, 0, 0x1d, 9]).records(), Refused),
        ("a broken pre_shared_key", modern().with(41, &[0, 1]).records(), Refused),
    ]
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
            let Ok(Step::Complete(hello)) = found else { panic!("{case}, {chunking}: {found:?}") };
            assert_eq!(hello.facts.server_name().as_str(), NAME, "{case}");
            assert_eq!(hello.raw, bytes, "{case}");
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

#[test]
fn each_reason_is_told() {
    let reason =
        |wanted: &str| hostile().into_iter().find(|(case, ..)| *case == wanted).unwrap().2.reason();
    for (case, expected) in [
        ("HTTP", Reason::NotTls),
        ("SSLv2", Reason::NotTls),
        ("SSL 3's record", Reason::TlsTooOld),
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
fn what_is_no_tls_is_told_by_its_first_byte() {
    for first in (0..=255).filter(|byte| *byte != 22) {
        assert_eq!(read_whole(&[first]), Err(HelloFault::NotTls), "{first}");
    }
    assert_eq!(read_whole(&[22]), Ok(Step::NeedMore));
}

#[test]
fn a_size_is_denied_once_it_is_declared() {
    let declared = [22, 3, 1, 0, 200, 1, 0, 0xff, 0xfd];
    assert_eq!(read_whole(&declared[..8]), Ok(Step::NeedMore));
    assert_eq!(read_whole(&declared), Err(HelloFault::TooLarge(0xfffd)));
}

#[test]
fn a_legal_hellos_prefixes_need_more() {
    for (case, bytes) in legal() {
        // A sample: fed byte by byte, above, every prefix is tried.
        let step = 1 + bytes.len() / 100;
        for end in (0..bytes.len()).step_by(step) {
            assert_eq!(read_whole(&bytes[..end]), Ok(Step::NeedMore), "{case}, {end}");
        }
    }
}

#[test]
fn a_fault_stays() {
    let mut reader = HelloReader::new();
    assert_eq!(reader.feed(b"x"), Err(HelloFault::NotTls));
    assert_eq!(reader.feed(&Draft::modern().records()), Err(HelloFault::NotTls));
    let mut reader = HelloReader::new();
    assert!(matches!(reader.feed(&Draft::modern().records()), Ok(Step::Complete(_))));
    assert_eq!(reader.feed(b""), Ok(Step::NeedMore));
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

/// What tls-parser reads in a message: the names.
fn dissect(message: &[u8]) -> Vec<(u8, Vec<u8>)> {
    use tls_parser::{TlsExtension, TlsMessage, TlsMessageHandshake};
    let (_, parsed) = tls_parser::parse_tls_message_handshake(message).unwrap();
    let TlsMessage::Handshake(TlsMessageHandshake::ClientHello(hello)) = parsed else {
        panic!("{parsed:?}")
    };
    let (rest, extensions) = tls_parser::parse_tls_extensions(hello.ext.unwrap()).unwrap();
    assert!(rest.is_empty());
    let names = extensions.into_iter().filter_map(|extension| match extension {
        TlsExtension::SNI(names) => Some(names),
        _ => None,
    });
    names.flatten().map(|(kind, name)| (kind.0, name.to_vec())).collect()
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
    let dissected = dissect(&message);
    assert_eq!(dissected.len(), 1);
    assert_eq!(dissected[0].0, 0);
    assert_eq!(dissected[0].1.to_ascii_lowercase(), name.as_bytes());
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
            others_agree(&accepted(&bytes));
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
        let Ok(Step::Complete(hello)) = read_whole(&bytes) else { return Ok(()) };
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
        prop_assert_eq!(again.raw, split);
    }

    #[test]
    fn others_accept_what_we_do(bytes in mutated()) {
        if let Ok(Step::Complete(hello)) = read_whole(&bytes) {
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
