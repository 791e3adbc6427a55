//! What must hold of every input: used by the fuzz targets, and by `tests/corpus.rs`, which replays
//! the committed corpora on stable.
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
use pullgate::hello::{Guard, HelloFault, HelloReader, Output, Step};
use pullgate::listen::head::{HeadReader, Progress};

/// Cuts that come from the input itself, so that a finding can be replayed.
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

/// A request's head: the verdict does not depend on the cuts, and what passes is what a reader of
/// the simplest kind sees.
pub fn head(bytes: &[u8]) {
    let judge = |pieces: Vec<&[u8]>| {
        let mut reader = HeadReader::default();
        for piece in pieces {
            match reader.feed(piece) {
                Ok(Progress::NeedMore) => {}
                settled => return Some(settled),
            }
        }
        None
    };
    let whole = judge(vec![bytes]);
    assert_eq!(whole, judge(cuts(bytes)), "the cuts change the verdict");
    assert_eq!(whole, judge(bytes.chunks(1).collect()), "byte by byte it is another");
    if let Some(Ok(Progress::Complete(head))) = whole {
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

/// What some bytes are to the reader of hellos. Bytes behind a hello are told by the reader when
/// they come in the same piece, and by the guard otherwise: the same denial.
fn hello_of<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Option<Result<String, HelloFault>> {
    let mut reader = HelloReader::new();
    let mut complete = None;
    for piece in pieces {
        if complete.is_some() && !piece.is_empty() {
            return Some(Err(HelloFault::BytesBehind));
        }
        match reader.feed(piece) {
            Ok(Step::NeedMore) => {}
            Ok(Step::Complete(hello)) => {
                complete = Some(Ok(hello.facts.server_name().as_str().to_owned()));
            }
            Err(fault) => return Some(Err(fault)),
        }
    }
    complete
}

/// A ClientHello: the verdict does not depend on the cuts, no prefix is settled, and whatever we
/// accept rustls accepts too, by the same name.
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
        let mut acceptor = rustls::server::Acceptor::default();
        acceptor.read_tls(&mut &bytes[..]).expect("reading from a slice");
        let accepted = acceptor.accept().ok().flatten().expect("rustls accepts it too");
        let theirs = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
        assert_eq!(theirs.as_deref(), Some(name.as_str()));
    }
}

/// A hello that every guard of the fuzzer begins with: TLS 1.2 and 1.3, contoso.azurecr.io.
const FIRST_HELLO: &[u8] = include_bytes!("first-hello.bin");

/// One side of a flow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Client,
    Server,
}

/// Reads operations: a byte for side (its lowest bit) and length (the rest), then so many bytes.
/// The longest length stands for all that is left.
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

/// Feeds a guard; what passed each way, and the cut if there was one.
fn guarded(operations: &[(From, &[u8])], size: usize) -> (Output, Option<String>) {
    let mut reader = HelloReader::new();
    let Ok(Step::Complete(hello)) = reader.feed(FIRST_HELLO) else {
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
                return (out, Some(format!("{:?}", cut.reason())));
            }
        }
    }
    (out, None)
}

/// A flow of both sides: verdict and output do not depend on the cuts, and nothing passes but what
/// was sent, in its order.
pub fn guard(bytes: &[u8]) {
    let operations = operations(bytes);
    let whole = guarded(&operations, usize::MAX);
    assert_eq!(whole, guarded(&operations, 1), "byte by byte it is another");
    assert_eq!(whole, guarded(&operations, 7), "in sevens it is another");
    let sent = |from: From| {
        let of_side = operations.iter().filter(move |(side, _)| *side == from);
        of_side.flat_map(|(_, bytes)| bytes.iter().copied()).collect::<Vec<u8>>()
    };
    assert!(sent(From::Client).starts_with(&whole.0.to_server), "the client's bytes changed");
    assert!(sent(From::Server).starts_with(&whole.0.to_client), "the server's bytes changed");
}

fn file(path: &str, text: &str) -> File {
    File { path: Arc::from(path), text: Ok(text.to_owned()) }
}

const MAIN: &str = "[[listen]]\nmode = \"connect\"\naddress = \"127.0.0.1:3128\"\n";

/// The policy's files: no text panics, every fault has its file, and the same text is judged the
/// same. The text is tried as a registry and as the main file.
pub fn policy_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let good = file("registries.d/good.toml", "login-server = \"good.azurecr.io\"\n");
    let tried = [
        Files {
            main: file("pullgate.toml", MAIN),
            registries: vec![file("registries.d/tried.toml", text)],
        },
        Files { main: file("pullgate.toml", text), registries: vec![good] },
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

/// What az prints: no text panics, and what `import` makes of it is a registry's file.
pub fn az_json(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    compiled(&Files {
        main: file("pullgate.toml", MAIN),
        registries: vec![file("registries.d/tried.json", text)],
    });
    if let Ok(import) = config::import(&Arc::from("tried.json"), text) {
        let path = "registries.d/imported.toml";
        let faults = config::compile(
            &Files {
                main: file("pullgate.toml", MAIN),
                registries: vec![file(path, &import.toml)],
            },
            1,
        );
        if let Err(faults) = faults {
            // Hosts are taken over as they stand and judged when loaded; the form is ours.
            assert!(faults.iter().all(|fault| !fault.what.starts_with("column")), "{faults:?}");
        }
    }
}
