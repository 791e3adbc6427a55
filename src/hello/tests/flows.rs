//! Two-way flows: what the guard lets pass, and what it cuts, in any chunking.

use proptest::prelude::*;

use crate::cases::cut;
use crate::cases::drafts::{Answer, Draft, record, records};
use crate::cases::flows::{
    End, Flow, Op, alert, change, finished12, flight12, key_exchange, offending, passing, retried,
    sealed,
};
use crate::hello::{Cut, Guard, HelloReader, HelloStep, Onward, Output, RecordWatch, UploadFault};
use crate::policy::Reason;

use Op::{Client, Server};

/// A flow's end, what has passed, and whether an alert may still be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    end: End,
    passed: Output,
    served: bool,
}

fn guard(first: &Draft) -> Guard {
    match HelloReader::new().feed(&first.records()) {
        Ok(HelloStep::Complete(hello)) => Guard::new(hello.facts),
        other => panic!("{other:?}"),
    }
}

/// Runs a flow behind a first hello, each operation in chunks.
fn run(first: &Draft, ops: &[Op], chunks: impl Fn(&[u8]) -> Vec<&[u8]>) -> Outcome {
    let mut guard = guard(first);
    let mut passed = Output::default();
    let mut fed = || {
        for op in ops {
            match op {
                Client(bytes) => {
                    chunks(bytes).iter().try_for_each(|chunk| guard.client(chunk, &mut passed))?;
                }
                Server(bytes) => {
                    chunks(bytes).iter().try_for_each(|chunk| guard.server(chunk, &mut passed))?;
                }
            }
        }
        Ok(())
    };
    let end = match fed() {
        Err(cut) => {
            let before = passed.clone();
            assert_eq!(guard.client(b"x", &mut passed), Err(cut));
            assert_eq!(guard.server(&Answer::tls13().record(), &mut passed), Err(cut));
            assert_eq!(passed, before, "a cut is final");
            assert!(guard.onward().is_none());
            End::Cut(cut)
        }
        Ok(()) => match guard.onward() {
            None => End::Watching,
            Some(Onward::Free) => End::Free,
            Some(Onward::Records(_)) => End::Records,
        },
    };
    Outcome { end, passed, served: guard.served() }
}

fn whole(bytes: &[u8]) -> Vec<&[u8]> {
    vec![bytes]
}

fn by_bytes(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.chunks(1).collect()
}

/// All that the operations hold, each way.
fn all(ops: &[Op]) -> Output {
    let mut all = Output::default();
    for op in ops {
        match op {
            Client(bytes) => all.to_server.extend(bytes),
            Server(bytes) => all.to_client.extend(bytes),
        }
    }
    all
}

#[test]
fn honest_flows_pass() {
    for Flow { case, first, ops, end } in passing() {
        let outcome = run(&first, &ops, whole);
        assert_eq!(outcome.end, end, "{case}");
        let mut expected = all(&ops);
        if case == "1.2 and half a header" {
            expected.to_server.truncate(expected.to_server.len() - 2);
        }
        if case == "a second hello in many records" {
            expected.to_server = retried(&first).records();
        }
        assert_eq!(outcome.passed, expected, "{case}");
        assert_eq!(run(&first, &ops, by_bytes), outcome, "{case}, by bytes");
        for seed in 0..5 {
            let cut = run(&first, &ops, |bytes| cut(bytes, seed));
            assert_eq!(cut, outcome, "{case}, {seed}");
        }
    }
}

#[test]
fn offences_are_cut_and_nothing_of_them_passes() {
    for Flow { case, first, ops, end } in offending() {
        let outcome = run(&first, &ops, whole);
        assert_eq!(outcome.end, end, "{case}");
        let (_, before) = ops.split_last().unwrap();
        assert_eq!(outcome.passed, all(before), "{case}");
        assert_eq!(run(&first, &ops, by_bytes), outcome, "{case}, by bytes");
        for seed in 0..5 {
            let cut = run(&first, &ops, |bytes| cut(bytes, seed));
            assert_eq!(cut, outcome, "{case}, {seed}");
        }
    }
}

/// The second hello is judged before what stands behind it, in one piece or in many.
#[test]
fn bytes_behind_the_second_hello_do_not_change_its_verdict() {
    let modern = Draft::modern();
    let retry = Answer::retry().record();
    let evil = modern.clone().named("evil.example.com").records();
    for (second, cut, passed) in [
        (retried(&modern).records(), Cut::BehindHello, retried(&modern).records()),
        (evil, Cut::OtherName, vec![]),
    ] {
        let behind = [&*second, &sealed(23, 9)].concat();
        let ops = [Server(retry.clone()), Client(behind)];
        let expected = Outcome {
            end: End::Cut(cut),
            passed: Output { to_server: passed, to_client: retry.clone() },
            served: false,
        };
        assert_eq!(run(&modern, &ops, whole), expected);
        assert_eq!(run(&modern, &ops, by_bytes), expected);
    }
}

#[test]
fn each_cut_has_its_reason() {
    let reason = |wanted: &str| {
        let flow = offending().into_iter().find(|flow| flow.case == wanted).unwrap();
        let End::Cut(cut) = flow.end else { panic!("{wanted}") };
        cut.reason()
    };
    for (case, expected) in [
        ("another name", Reason::SecondHelloMismatch),
        ("no name", Reason::SecondHelloMismatch),
        ("another random", Reason::SecondHelloMismatch),
        ("ECH", Reason::EncryptedClientHello),
        ("early data", Reason::EarlyData),
        ("two names", Reason::HelloMalformed),
        ("a second retry", Reason::ServerHelloMalformed),
        ("TLS 1.1", Reason::ServerHelloMalformed),
        ("a hello of another name", Reason::Renegotiation),
        ("a renegotiation", Reason::Renegotiation),
        ("a Finished and more", Reason::Renegotiation),
        ("no TLS later", Reason::NotTls),
        ("a hello before the reply", Reason::HelloMalformed),
    ] {
        assert_eq!(reason(case), expected, "{case}");
    }
}

#[test]
fn an_alert_may_be_sent_until_the_server_is_heard() {
    let served = |ops: &[Op]| run(&Draft::modern(), ops, whole).served;
    let retry = || Server(Answer::retry().record());
    assert!(!served(&[]));
    assert!(!served(&[retry()]));
    assert!(!served(&[retry(), Server(change())]));
    assert!(!served(&[Server(Answer::tls13().record()[..30].to_vec())]));
    assert!(!served(&[retry(), Client(Draft::modern().named("evil.example.com").records())]));
    assert!(served(&[Server(alert(1, 112))]));
    assert!(served(&[Server(Answer::tls13().record())]));
    assert!(served(&[Server(flight12())]));
}

#[test]
fn each_side_has_its_turn() {
    let modern = Draft::modern();
    let mut guard = guard(&modern);
    let mut out = Output::default();
    assert!(guard.is_servers_turn());
    assert_eq!(guard.second_hello_memory(), None);
    guard.server(&Answer::retry().record(), &mut out).unwrap();
    assert!(guard.second_hello_memory().is_some(), "what is kept of the first");
    assert!(!guard.is_servers_turn());
    guard.client(&change(), &mut out).unwrap();
    assert!(!guard.is_servers_turn());
    guard.client(&retried(&modern).records(), &mut out).unwrap();
    assert!(guard.is_servers_turn());
    guard.server(&Answer::tls13().record(), &mut out).unwrap();
    assert!(!guard.is_servers_turn());
}

/// The guard hands over in the midst of a record, and the watch goes on from there.
#[test]
fn the_watch_goes_on_within_a_record() {
    let mut guard = guard(&Draft::modern());
    let mut out = Output::default();
    for op in finished12() {
        match op {
            Client(bytes) => guard.client(&bytes, &mut out).unwrap(),
            Server(bytes) => guard.server(&bytes, &mut out).unwrap(),
        }
    }
    out = Output::default();
    let data = sealed(23, 100);
    guard.client(&data[..3], &mut out).unwrap();
    assert!(out.to_server.is_empty() && guard.onward().is_none());
    guard.client(&data[3..45], &mut out).unwrap();
    assert_eq!(out.to_server, data[..45]);
    let Some(Onward::Records(mut watch)) = guard.onward() else { panic!() };
    assert_eq!(watch.payload_left(), 60);
    assert_eq!(watch.clone().header([23, 3, 3, 0, 9]), Err(UploadFault::OutOfStep));
    watch.moved(60);
    assert_eq!(watch.header([23, 3, 3, 0, 9]), Ok(9));
    assert_eq!(watch.payload_left(), 9);
    watch.moved(9);
    assert_eq!(watch.header([22, 3, 3, 0, 9]), Err(UploadFault::Renegotiation));
}

/// What both sides might send, right or nearly so.
fn operations() -> impl Strategy<Value = Vec<Op>> {
    let edit = (any::<prop::sample::Index>(), any::<u8>());
    let edits = prop::collection::vec(prop::option::weighted(0.1, edit), 12);
    (unchanged(), edits).prop_map(|(mut ops, edits)| {
        for (op, edit) in ops.iter_mut().zip(edits) {
            let (Client(bytes) | Server(bytes)) = op;
            if let Some((at, byte)) = edit {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        ops
    })
}

/// What both sides might send, in any order.
fn unchanged() -> impl Strategy<Value = Vec<Op>> {
    let modern = Draft::modern();
    let pieces = vec![
        modern.records(),
        retried(&modern).records(),
        records(&retried(&modern).message(), 20),
        modern.clone().named("evil.example.com").records(),
        Answer::tls13().record(),
        Answer::retry().record(),
        records(&Answer::retry().message(), 20),
        flight12(),
        record(22, &key_exchange()),
        change(),
        alert(1, 112),
        alert(2, 40),
        sealed(22, 40),
        sealed(23, 50),
        sealed(23, 900),
        sealed(24, 4),
        b"x".to_vec(),
    ];
    let op = (any::<bool>(), prop::sample::select(pieces));
    let op =
        op.prop_map(|(is_client, bytes)| if is_client { Client(bytes) } else { Server(bytes) });
    let begun = prop::sample::select(vec![
        vec![],
        vec![Server(Answer::retry().record())],
        vec![Server(flight12())],
        finished12(),
    ]);
    (begun, prop::collection::vec(op, 0..8)).prop_map(|(begun, ops)| [begun, ops].concat())
}

/// What the records in some bytes carry; bytes that are no whole record are kept as they are.
fn payloads(mut bytes: &[u8]) -> Vec<u8> {
    let mut found = Vec::new();
    while let Some(&[_, _, _, high, low]) = bytes.first_chunk::<5>() {
        let whole = 5 + usize::from(u16::from_be_bytes([high, low]));
        let (record, rest) = bytes.split_at(whole.min(bytes.len()));
        found.extend_from_slice(&record[5..]);
        bytes = rest;
    }
    [found, bytes.to_vec()].concat()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_guard_is_blind_to_chunks(ops in operations(), seed in any::<u64>()) {
        let first = Draft::modern();
        let whole = run(&first, &ops, whole);
        let bytes = run(&first, &ops, by_bytes);
        let random = run(&first, &ops, |bytes| cut(bytes, seed));
        prop_assert_eq!(&whole, &bytes);
        prop_assert_eq!(&whole, &random);
    }

    /// What passes is the beginning of what was sent, with nothing inserted, omitted or moved. Only a
    /// second hello is framed anew, so the client's side is compared without record headers.
    #[test]
    fn what_passes_is_a_prefix(ops in operations()) {
        let outcome = run(&Draft::modern(), &ops, whole);
        let sent = all(&ops);
        let (sent_up, passed_up) = (payloads(&sent.to_server), payloads(&outcome.passed.to_server));
        prop_assert!(
            sent.to_server.starts_with(&outcome.passed.to_server) || sent_up.starts_with(&passed_up)
        );
        prop_assert!(sent.to_client.starts_with(&outcome.passed.to_client));
        if matches!(outcome.end, End::Free | End::Records) {
            prop_assert_eq!(passed_up, sent_up);
            prop_assert_eq!(outcome.passed.to_client, sent.to_client);
        }
    }

    /// No hello that names another server ever passes in the clear but behind TLS 1.3's end. Nothing
    /// is changed: within a key exchange of 64 KiB, what looks like a hello is none.
    #[test]
    fn another_name_never_passes(ops in unchanged()) {
        let evil = b"evil.example.com";
        let outcome = run(&Draft::modern(), &ops, whole);
        if outcome.end != End::Free {
            let found = outcome.passed.to_server.windows(evil.len()).any(|window| window == evil);
            prop_assert!(!found);
        }
    }

    #[test]
    fn any_bytes_do_no_harm(
        ops in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..60)), 0..9),
    ) {
        let ops: Vec<Op> = ops
            .into_iter()
            .map(|(is_client, bytes)| if is_client { Client(bytes) } else { Server(bytes) })
            .collect();
        run(&Draft::modern(), &ops, whole);
    }

    /// The watch against its naive twin: all records are whole, and their types are listed.
    #[test]
    fn the_watch_agrees_with_its_twin(
        kinds in prop::collection::vec((20..25_u8, 1..300_usize), 0..20),
    ) {
        let allowed = kinds.iter().take_while(|(kind, _)| matches!(kind, 21 | 23)).count();
        let mut watch = RecordWatch::at_boundary();
        let mut passed = 0;
        for (kind, length) in &kinds {
            let bytes = sealed(*kind, *length);
            if watch.header(*bytes.first_chunk().unwrap()).is_err() { break }
            watch.moved(*length / 2);
            watch.moved(watch.payload_left());
            passed += 1;
        }
        prop_assert_eq!(passed, allowed);
    }
}
