//! Properties that must hold for every input. Used by the fuzz targets, and by `tests/corpus.rs`,
//! which replays the committed corpora on stable.
#![allow(dead_code, reason = "each target uses one of them")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test fails by panicking; clippy's exception for tests covers #[test] functions only"
)]

use std::sync::Arc;

use pullgate::config::{self, File, Files};
use pullgate::hello::{Cut, Guard, HelloFault, HelloReader, HelloStep, Onward, Output};
use pullgate::listen::http::head::{HeadProgress, HeadReader};
use pullgate::oci::{LONGEST_TARGET, Naming, Operation, Repository, Request};

/// Derives split positions from the input itself, so that a finding can be replayed.
fn cuts(bytes: &[u8]) -> Vec<&[u8]> {
    let mut seed = bytes
        .iter()
        .fold(0x9E37_79B9_u32, |seed, byte| (seed ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    let mut rest = bytes;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (piece, behind) = rest.split_at((1 + (seed >> 24) as usize % 40).min(rest.len()));
        pieces.push(piece);
        rest = behind;
    }
    pieces
}

/// A request head: the verdict does not depend on the splits, and an accepted head means the same
/// to a naive parser.
pub fn head(bytes: &[u8]) {
    let judge = |pieces: Vec<&[u8]>| {
        let mut reader = HeadReader::default();
        for piece in pieces {
            match reader.feed(piece) {
                Ok(HeadProgress::NeedMore) => {}
                settled => return Some(settled),
            }
        }
        None
    };
    let whole = judge(vec![bytes]);
    assert_eq!(whole, judge(cuts(bytes)), "the cuts change the verdict");
    assert_eq!(whole, judge(bytes.chunks(1).collect()), "byte by byte it is another");
    if let Some(Ok(HeadProgress::Complete(head))) = whole {
        let text = std::str::from_utf8(&bytes[..head.length]).expect("a head is ASCII");
        let mut words = text.lines().next().expect("it has a first line").split(' ');
        assert_eq!(words.next(), Some("CONNECT"));
        let target = words.next().expect("a target").to_ascii_lowercase();
        assert_eq!(target, head.target.to_string());
        assert!(text.ends_with("\r\n\r\n"));
        assert_eq!(judge(vec![&bytes[..head.length - 1]]), None, "a prefix is settled");
        for line in text.lines().skip(1) {
            let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
            assert!(name != "content-length" && name != "transfer-encoding");
        }
    }
}

/// The verdict of the hello reader on some bytes. Bytes after a hello are rejected by the reader if
/// they arrive in the same piece, otherwise by the guard, with the same denial.
fn hello_of<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Option<Result<String, HelloFault>> {
    let mut reader = HelloReader::new();
    let mut complete = None;
    for piece in pieces {
        if complete.is_some() && !piece.is_empty() {
            return Some(Err(HelloFault::BytesBehind));
        }
        match reader.feed(piece) {
            Ok(HelloStep::NeedMore) => {}
            Ok(HelloStep::Complete(hello)) => {
                complete = Some(Ok(hello.facts.server_name().as_str().to_owned()));
            }
            Err(fault) => return Some(Err(fault)),
        }
    }
    complete
}

/// A ClientHello: the verdict does not depend on the splits, no prefix has a final verdict, and
/// rustls accepts every accepted hello with the same name.
pub fn hello(bytes: &[u8]) {
    let whole = hello_of([bytes]);
    let denied = |verdict: &Option<Result<String, HelloFault>>| match verdict {
        Some(Err(fault)) => Some(fault.reason()),
        _ => None,
    };
    for verdict in [hello_of(cuts(bytes)), hello_of(bytes.chunks(1))] {
        match (&whole, &verdict) {
            (Some(Ok(name)), Some(Ok(other))) => assert_eq!(name, other),
            (None, None) => {}
            _ => assert_eq!(denied(&whole), denied(&verdict), "{whole:?} is not {verdict:?}"),
        }
    }
    if let Some(Ok(name)) = whole {
        let last = bytes.len() - 1;
        assert_eq!(hello_of([&bytes[..last]]), None, "a prefix is settled");
        let message = rejoined(bytes);
        rustls_agrees(&message, &name);
        tls_parser_agrees(&message, &name);
    }
}

/// Joins the message from its records in the simplest way.
fn rejoined(mut records: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    while let Some((&[_, _, _, high, low], behind)) = records.split_first_chunk::<5>() {
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (payload, rest) = behind.split_at(length.min(behind.len()));
        message.extend_from_slice(payload);
        records = rest;
    }
    message
}

/// Asserts that rustls reads the same name in the hello. The hello is sent in as few records as
/// possible, because rustls limits their number and total size. rustls stops reading if it could
/// not serve the client.
fn rustls_agrees(message: &[u8], name: &str) {
    let mut acceptor = rustls::server::Acceptor::default();
    for payload in message.chunks(1 << 14) {
        let length = u16::try_from(payload.len()).expect("at most 2^14").to_be_bytes();
        let mut record = &[&[22, 3, 3], &length[..], payload].concat()[..];
        while !record.is_empty() {
            if acceptor.read_tls(&mut record).is_err() {
                return;
            }
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                assert_eq!(accepted.client_hello().server_name(), Some(name));
                return;
            }
            Err((rustls::Error::PeerIncompatible(_), _)) => return,
            Err((error, _)) => panic!("rustls refuses it: {error}"),
        }
    }
    panic!("rustls wants more");
}

/// Asserts that tls-parser, if it can parse the hello, finds the same single name in it.
fn tls_parser_agrees(message: &[u8], name: &str) {
    use tls_parser::{TlsExtension, TlsMessage, TlsMessageHandshake};
    let Ok((_, TlsMessage::Handshake(TlsMessageHandshake::ClientHello(hello)))) =
        tls_parser::parse_tls_message_handshake(message)
    else {
        return;
    };
    let extensions = hello.ext.expect("a name stands in an extension");
    let Ok((_, extensions)) = tls_parser::parse_tls_extensions(extensions) else { return };
    let names: Vec<_> = extensions
        .iter()
        .filter_map(|extension| match extension {
            TlsExtension::SNI(names) => Some(names),
            _ => None,
        })
        .flatten()
        .map(|(kind, name)| (kind.0, name.to_ascii_lowercase()))
        .collect();
    assert_eq!(names, [(0, name.as_bytes().to_vec())]);
}

/// The hello that every fuzzed guard begins with: TLS 1.2 and 1.3, contoso.azurecr.io.
const FIRST_HELLO: &[u8] = include_bytes!("first-hello.bin");

/// One side of a flow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Client,
    Server,
}

/// Reads operations: one byte for the side (lowest bit) and the length (other bits), then that many
/// bytes. The maximum length means all remaining bytes.
fn operations(mut bytes: &[u8]) -> Vec<(From, &[u8])> {
    let mut operations = Vec::new();
    while let Some((first, rest)) = bytes.split_first() {
        let side = if first & 1 == 0 { From::Client } else { From::Server };
        let length = match first >> 1 {
            127 => rest.len(),
            short => (short as usize * 4).min(rest.len()),
        };
        let (piece, behind) = rest.split_at(length);
        operations.push((side, piece));
        bytes = behind;
    }
    operations
}

/// The state at the end of a flow: the denial, or the phase that it reached.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Cut(Cut),
    Onward(Option<Onward>),
}

/// Feeds a guard. Returns what passed in each direction, and the end.
fn guarded(operations: &[(From, &[u8])], size: usize) -> (Output, End) {
    let mut reader = HelloReader::new();
    let Ok(HelloStep::Complete(hello)) = reader.feed(FIRST_HELLO) else {
        panic!("the first hello is a good one");
    };
    let mut guard = Guard::new(hello.facts);
    let mut out = Output::default();
    for (side, bytes) in operations {
        for piece in bytes.chunks(size) {
            let verdict = match side {
                From::Client => guard.client(piece, &mut out),
                From::Server => guard.server(piece, &mut out),
            };
            if let Err(cut) = verdict {
                assert_eq!(guard.client(b"x", &mut Output::default()), Err(cut), "a cut is final");
                return (out, End::Cut(cut));
            }
        }
    }
    (out, End::Onward(guard.onward()))
}

/// A two-way flow: verdict and output do not depend on the splits; only sent bytes pass, in order;
/// and a naive reader accepts what passed from the client.
pub fn guard(bytes: &[u8]) {
    let operations = operations(bytes);
    let whole = guarded(&operations, usize::MAX);
    assert_eq!(whole, guarded(&operations, 1), "byte by byte it is another");
    assert_eq!(whole, guarded(&operations, 7), "in sevens it is another");
    let sent = |from: From| {
        let of_side = operations.iter().filter(move |(side, _)| *side == from);
        of_side.flat_map(|(_, bytes)| bytes.iter().copied()).collect::<Vec<u8>>()
    };
    let (from_client, passed) = (sent(From::Client), &whole.0.to_server);
    // A second hello is sent on in the fewest records.
    let unframed = || payloads(&from_client).starts_with(&payloads(passed));
    assert!(from_client.starts_with(passed) || unframed(), "the client's bytes changed");
    assert!(sent(From::Server).starts_with(&whole.0.to_client), "the server's bytes changed");
    if whole.1 != End::Onward(Some(Onward::Free)) {
        in_order(&whole.0);
    }
}

/// The first bytes of the SHA-256 of "HelloRetryRequest" (RFC 8446 §4.1.3).
const RETRY: [u8; 8] = [0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11];

/// Checks clear-text records: after a HelloRetryRequest, one more hello with the same name; after a
/// TLS 1.2 ServerHello, one handshake and no other; after neither, only alerts.
fn in_order(passed: &Output) {
    const CHANGE: u8 = 20;
    const ALERT: u8 = 21;
    const HANDSHAKE: u8 = 22;
    const DATA: u8 = 23;
    let records = split(&passed.to_server);
    let kinds: Vec<u8> = records.iter().map(|record| record[0]).collect();
    let replies = split(&passed.to_client);
    let reply: Vec<&[u8]> =
        replies.iter().copied().filter(|record| record[0] == HANDSHAKE).collect();
    // The random follows type, length and version.
    if rejoined(&reply.concat()).get(6..14) == Some(&RETRY) {
        assert!(!kinds.contains(&DATA), "{kinds:?}");
        assert!(kinds.iter().filter(|kind| **kind == CHANGE).count() <= 1, "{kinds:?}");
        let hello: Vec<&[u8]> =
            records.into_iter().filter(|record| record[0] == HANDSHAKE).collect();
        match hello_of([&*hello.concat()]) {
            None => assert!(hello.is_empty(), "half a hello passed"),
            Some(name) => assert_eq!(name.as_deref(), Ok("contoso.azurecr.io")),
        }
    } else if reply.is_empty() {
        assert!(kinds.iter().all(|kind| *kind == ALERT), "{kinds:?}");
    } else {
        let mut rest = kinds.into_iter().skip_while(|kind| [HANDSHAKE, ALERT].contains(kind));
        assert!(matches!(rest.next(), None | Some(CHANGE)));
        let mut rest = rest.skip_while(|kind| *kind == ALERT);
        assert!(matches!(rest.next(), None | Some(HANDSHAKE)));
        assert!(rest.all(|kind| [ALERT, DATA].contains(&kind)), "another handshake passed");
    }
}

/// Returns what the records in some bytes carry, without their headers.
fn payloads(bytes: &[u8]) -> Vec<u8> {
    split(bytes).into_iter().flat_map(|record| record[5..].iter().copied()).collect()
}

/// Returns the records in some bytes; the last one can be incomplete.
fn split(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut records = Vec::new();
    while let Some(&[_, _, _, high, low]) = bytes.first_chunk::<5>() {
        let length = 5 + usize::from(u16::from_be_bytes([high, low]));
        let (record, rest) = bytes.split_at(length.min(bytes.len()));
        records.push(record);
        bytes = rest;
    }
    records
}

fn file(path: &str, text: &str) -> File {
    File { path: Arc::from(path), text: Ok(text.to_owned()) }
}

const MAIN: &str = "[[listen]]\nmode = \"connect\"\naddress = \"127.0.0.1:3128\"\n";

/// Policy files: no text panics, every fault names its file, and the verdict is deterministic. The
/// text is tried as a registry file and as the main file.
pub fn policy_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let good = file("registries.d/good.toml", "login-server = \"good.azurecr.io\"\n");
    let tried = [
        Files {
            main: file("pullgate.toml", MAIN),
            registries: vec![file("registries.d/tried.toml", text)],
            further: Vec::new(),
        },
        Files { main: file("pullgate.toml", text), registries: vec![good], further: Vec::new() },
    ];
    for files in tried {
        compiled(&files);
    }
}

fn compiled(files: &Files) -> bool {
    match (config::compile(files, 1), config::compile(files, 1)) {
        (Ok(loaded), Ok(_)) => {
            for registry in &loaded.policy.rules().registries {
                for endpoint in registry.endpoints() {
                    let name = endpoint.target.name.as_str();
                    assert!(!name.ends_with("core.windows.net"), "storage in the policy: {name}");
                }
            }
            true
        }
        (Err(faults), Err(again)) => {
            assert!(!faults.is_empty());
            assert_eq!(faults, again);
            assert!(faults.iter().all(|fault| !fault.place.file.is_empty()));
            false
        }
        _ => panic!("one text has two verdicts"),
    }
}

/// Output of az: no text panics, and `import` converts it to a valid registry file.
pub fn az_json(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    compiled(&Files {
        main: file("pullgate.toml", MAIN),
        registries: vec![file("registries.d/tried.json", text)],
        further: Vec::new(),
    });
    if let Ok(import) = config::import(&Arc::from("tried.json"), text) {
        let path = "registries.d/imported.toml";
        let faults = config::compile(
            &Files {
                main: file("pullgate.toml", MAIN),
                registries: vec![file(path, &import.toml)],
                further: Vec::new(),
            },
            1,
        );
        if let Err(faults) = faults {
            // `import` copies hosts unchanged; they are judged when loaded. The syntax is ours.
            assert!(faults.iter().all(|fault| !fault.what.starts_with("column")), "{faults:?}");
        }
    }
}

/// A request to a registry, its method before the first space: what is accepted is built anew as
/// the same operation, and a reader of the simplest kind sees the same repository in what was
/// received.
pub fn registry_request(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (method, target) = text.split_once(' ').unwrap_or(("GET", text));
    for naming in [Naming::Mirror, Naming::Connection] {
        let Ok(request) = Request::parse(method, target, naming) else { continue };
        let built = request.operation.target();
        let again = Request::parse(method, &built, Naming::Connection);
        // Escapes may make it longer than what is read, but at most three times.
        let is_longer = built.len() > LONGEST_TARGET && built.len() <= 3 * LONGEST_TARGET;
        if is_longer && again.is_err() {
            continue;
        }
        assert_eq!(again.map(|request| request.operation), Ok(request.operation.clone()));
        let path = target.split('?').next().unwrap_or_default();
        let registry = request.registry.as_ref().map_or("", |name| name.as_str());
        // Only the first component names a registry: a repository may repeat it.
        let path_in_lower_case = path.to_ascii_lowercase();
        let behind = path_in_lower_case.strip_prefix(&format!("/v2/{registry}/"));
        let kept = behind.map_or(path_in_lower_case.clone(), |rest| format!("/v2/{rest}"));
        let own = built.split('?').next().unwrap_or_default();
        assert!(
            own == path || own.to_ascii_lowercase() == kept,
            "{path} became {own}, of {registry:?}"
        );
        assert_eq!(naive_repository(own), request.operation.repository().map(Repository::as_str));
        let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"/._:-=?&%".contains(&byte);
        assert!(built.bytes().all(safe) && !built.contains("//") && !built.contains("/../"));
        let pairs = target.split_once('?').map_or(0, |(_, query)| query.split('&').count());
        let named = usize::from(target.contains("ns="));
        let tokens = matches!(request.operation, Operation::Token { .. });
        let left = built.split_once('?').map_or(0, |(_, query)| query.split('&').count());
        assert!(tokens || left + named >= pairs, "{target} lost a pair: {built}");
    }
}

/// The repository of a path that is known to be a request's: what stands before the last marker.
fn naive_repository(path: &str) -> Option<&str> {
    if let Some(rest) = path.strip_prefix("/acr/v1/") {
        // Azure's own lists: `_catalog` has no repository. The others begin with it, and only some of
        // them say what they list.
        return rest.split("/_").next().filter(|name| *name != "_catalog");
    }
    let rest = path.strip_prefix("/v2/")?;
    let segments: Vec<&str> = rest.split('/').collect();
    let behind = match segments.as_slice() {
        [.., "blobs", "uploads", _] if segments.len() > 3 && !is_marked(&segments) => 3,
        [.., _, _] if segments.len() > 2 => 2,
        _ => return None,
    };
    let kept = segments[..segments.len() - behind].join("/").len();
    (kept > 0).then(|| &rest[..kept])
}

/// Whether the last but one segment says what the last is.
fn is_marked(segments: &[&str]) -> bool {
    matches!(segments[segments.len() - 2], "manifests" | "blobs" | "tags" | "referrers")
}
