//! First ClientHellos: legal and hostile ones.

use pullgate::hello::{HelloFault, LARGEST_MESSAGE, MOST_EXTENSIONS, RecordFault};
use pullgate::policy::NameError;

use super::drafts::{Draft, NAME, message, names, record, records, vector8, vector16};

macro_rules! sample {
    ($name:literal) => {
        ($name, include_bytes!(concat!("samples/", $name, ".bin")).to_vec())
    };
}

/// Hellos captured from real clients, each in one record.
pub fn samples() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        sample!("boringssl-mlkem768"),
        sample!("curl"),
        sample!("node"),
        sample!("openssl"),
        sample!("openssl35-mlkem768"),
        sample!("openssl-tls12"),
        sample!("openssl-tls13"),
        sample!("python"),
        sample!("python-tls12-resumed"),
        sample!("python-tls13-resumed"),
        sample!("skopeo-go"),
        sample!("wget-gnutls"),
    ]
}

/// Hellos that must pass; each names [`NAME`].
pub fn legal() -> Vec<(&'static str, Vec<u8>)> {
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
        ("a record of version 3.0", of_version(&modern, 0)),
        ("a record of version 3.1", of_version(&modern, 1)),
        ("a record of version 3.4", of_version(&modern, 4)),
    ];
    cases.extend(samples());
    cases
}

/// A hello whose record has this minor version (RFC 5246 E.1, RFC 8446 §5.1).
fn of_version(draft: &Draft, minor: u8) -> Vec<u8> {
    let mut bytes = draft.records();
    bytes[2] = minor;
    bytes
}

/// A hello of the maximum size.
fn largest() -> Draft {
    let draft = Draft::modern();
    let rest = LARGEST_MESSAGE - draft.message().len() - 4;
    draft.with(21, &vec![0; rest])
}

/// A hello with `count` extensions.
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

/// Hellos that must be rejected, each with its fault.
pub fn hostile() -> Vec<(&'static str, Vec<u8>, HelloFault)> {
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
        // Not TLS.
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
        ("version 2 of a record", patched(1, 2), NotTls),
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
        // Fields before the extensions.
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
        // Encrypted hellos and early data.
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
        // Extensions that rustls checks.
        ("an ALPN past its end", modern().with(16, &[0, 5, 2, b'h', b'2']).records(), Refused),
        ("a key_share past its end", modern().with(51, &[0, 9, 0, 0x1d]).records(), Refused),
        ("groups with surplus", modern().with(10, &[0, 2, 0, 0x1d, 9]).records(), Refused),
        ("a broken pre_shared_key", modern().with(41, &[0, 1]).records(), Refused),
    ]
}
