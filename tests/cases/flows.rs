//! Two-way flows after a first hello: legal ones, and ones whose last step must close the tunnel.

use pullgate::hello::{Cut, HelloFault, RecordFault, ReplyFault, UploadFault};

use super::drafts::{Answer, Draft, message, names, record, records};

/// The sender and the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    Client(Vec<u8>),
    Server(Vec<u8>),
}
/// The state at the end of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    Watching,
    Free,
    Records,
    Cut(Cut),
}

use Op::{Client, Server};

/// The bytes in both directions after a first hello, and the expected end.
pub struct Flow {
    pub case: &'static str,
    /// The first hello.
    pub first: Draft,
    pub ops: Vec<Op>,
    pub end: End,
}

/// An encrypted record with a payload of this many bytes.
pub fn sealed(kind: u8, length: usize) -> Vec<u8> {
    record(kind, &vec![0xaa; length])
}

pub fn change() -> Vec<u8> {
    record(20, &[1])
}

pub fn alert(level: u8, description: u8) -> Vec<u8> {
    record(21, &[level, description])
}

/// A client's key exchange under TLS 1.2.
pub fn key_exchange() -> Vec<u8> {
    message(16, &[0x41; 66])
}

/// ServerHello, Certificate, ServerKeyExchange and ServerHelloDone in one record, as TLS 1.2
/// permits.
pub fn flight12() -> Vec<u8> {
    let certificate = message(11, &[1; 900]);
    record(22, &[Answer::tls12().message(), certificate, message(14, b"")].concat())
}

/// A TLS 1.2 session up to the client's Finished.
pub fn finished12() -> Vec<Op> {
    vec![
        Server(flight12()),
        Client([record(22, &key_exchange()), change(), sealed(22, 40)].concat()),
        Server([change(), sealed(22, 40)].concat()),
    ]
}

pub fn then(mut ops: Vec<Op>, op: Op) -> Vec<Op> {
    ops.push(op);
    ops
}

/// The changes that a legal client makes in its second hello.
pub fn retried(first: &Draft) -> Draft {
    let share = [vec![0, 0x45, 0, 0x17, 0, 0x41], vec![4; 65]].concat();
    first.clone().with(51, &share).with(44, &[0, 2, 1, 1]).with(21, &[0; 9])
}

/// Flows that must pass.
pub fn passing() -> Vec<Flow> {
    let modern = Draft::modern;
    let flow = |case, first: Draft, ops, end| Flow { case, first, ops, end };
    let split = |answer: &Answer, size| Server(records(&answer.message(), size));
    let client12 = |bytes: Vec<u8>| vec![Server(flight12()), Client(bytes)];
    let retry = || Server(Answer::retry().record());
    let second = || Client(retried(&modern()).records());
    vec![
        flow("nothing yet", modern(), vec![], End::Watching),
        // TLS 1.3.
        flow(
            "1.3",
            modern(),
            vec![
                Server([Answer::tls13().record(), change(), sealed(23, 3000)].concat()),
                Client([change(), sealed(23, 60), b"anything".to_vec()].concat()),
                Server(b"anything".to_vec()),
            ],
            End::Free,
        ),
        flow("1.3 in records of one byte", modern(), vec![split(&Answer::tls13(), 1)], End::Free),
        flow(
            "a warning first",
            modern(),
            vec![Server(alert(1, 112)), Server(Answer::tls13().record())],
            End::Free,
        ),
        flow(
            "1.3 only",
            modern().with(43, &[2, 3, 4]),
            vec![Server(Answer::tls13().record())],
            End::Free,
        ),
        // HelloRetryRequest.
        flow("a retry", modern(), vec![retry()], End::Watching),
        flow(
            "a retry, and the dummy",
            modern(),
            vec![Server([Answer::retry().record(), change()].concat())],
            End::Watching,
        ),
        flow(
            "a retry, and another hello",
            modern(),
            vec![
                Server([Answer::retry().record(), change()].concat()),
                Client(change()),
                second(),
                Server([Answer::tls13().record(), sealed(23, 900)].concat()),
                Client(sealed(23, 60)),
            ],
            End::Free,
        ),
        flow(
            "without dummies",
            modern(),
            vec![retry(), second(), Server(Answer::tls13().record())],
            End::Free,
        ),
        flow(
            "the server's dummy late",
            modern(),
            vec![retry(), second(), Server(change()), Server(Answer::tls13().record())],
            End::Free,
        ),
        flow(
            "a second hello in many records",
            modern(),
            vec![retry(), Client(records(&retried(&modern()).message(), 3))],
            End::Watching,
        ),
        flow(
            "a retry in many records",
            modern(),
            vec![split(&Answer::retry(), 3), second(), split(&Answer::tls13(), 5)],
            End::Free,
        ),
        flow(
            "a second hello with a key",
            modern().resuming(),
            vec![retry(), Client(modern().with(51, &[0, 0]).resuming().records())],
            End::Watching,
        ),
        flow(
            "a second hello in upper case",
            modern(),
            vec![retry(), Client(modern().named("CONTOSO.AZURECR.IO").records())],
            End::Watching,
        ),
        flow(
            "the client refuses the retry",
            modern(),
            vec![retry(), Client(alert(2, 47))],
            End::Watching,
        ),
        // Refusals.
        flow("the server refuses", modern(), vec![Server(alert(2, 40))], End::Watching),
        flow(
            "both refuse",
            modern(),
            vec![Server(alert(2, 40)), Client(alert(1, 0)), Server(alert(1, 0))],
            End::Watching,
        ),
        flow(
            "refused after the second hello",
            modern(),
            vec![retry(), second(), Server(alert(2, 40))],
            End::Watching,
        ),
        // TLS 1.2.
        flow("1.2", modern(), finished12(), End::Records),
        flow("1.2 of a classic client", Draft::classic(), finished12(), End::Records),
        flow("1.2 begun", modern(), vec![Server(flight12())], End::Watching),
        flow(
            "1.2 without extensions",
            Draft::classic(),
            vec![Server(Answer { extensions: vec![], ..Answer::tls12() }.record())],
            End::Watching,
        ),
        flow(
            "1.2 without a session id",
            modern(),
            vec![Server(Answer { session_id: vec![], ..Answer::tls12() }.record())],
            End::Watching,
        ),
        flow(
            "1.2 in small records",
            modern(),
            vec![
                Server(records(&[Answer::tls12().message(), message(11, &[1; 300])].concat(), 7)),
                Client([records(&key_exchange(), 7), change(), sealed(22, 40)].concat()),
            ],
            End::Records,
        ),
        flow(
            "1.2 with a client's certificate",
            modern(),
            client12(
                [
                    record(22, &[message(11, &[1; 700]), key_exchange()].concat()),
                    record(22, &message(15, &[2; 70])),
                    change(),
                    sealed(22, 96),
                ]
                .concat(),
            ),
            End::Records,
        ),
        flow(
            "1.2 with a large certificate",
            modern(),
            client12(
                [
                    records(&[message(11, &[1; 40_000]), key_exchange()].concat(), 1 << 14),
                    change(),
                    sealed(22, 32),
                ]
                .concat(),
            ),
            End::Records,
        ),
        flow(
            "1.2 with an empty certificate",
            modern(),
            client12(
                [
                    record(22, &[message(11, &[0, 0, 0]), key_exchange()].concat()),
                    change(),
                    sealed(22, 40),
                ]
                .concat(),
            ),
            End::Records,
        ),
        flow(
            "1.2 resumed",
            modern(),
            vec![
                Server([Answer::tls12().record(), change(), sealed(22, 40)].concat()),
                Client([change(), sealed(22, 40)].concat()),
                Server(sealed(23, 10)),
            ],
            End::Records,
        ),
        flow("the client refuses the certificate", modern(), client12(alert(2, 42)), End::Watching),
        flow(
            "the client gives up after its change",
            modern(),
            client12([record(22, &key_exchange()), change(), sealed(21, 26)].concat()),
            End::Watching,
        ),
        flow(
            "1.2 and data",
            modern(),
            then(
                finished12(),
                Client(
                    [sealed(23, 1), sealed(23, (1 << 14) + 2048), sealed(21, 26), sealed(23, 900)]
                        .concat(),
                ),
            ),
            End::Records,
        ),
        flow(
            "1.2 and half a header",
            modern(),
            then(finished12(), Client([sealed(23, 100), vec![23, 3]].concat())),
            End::Watching,
        ),
    ]
}

/// The last operation of each flow is forbidden; no byte of it may pass.
pub fn offending() -> Vec<Flow> {
    let modern = Draft::modern;
    let flow = |case, first: Draft, ops, cut| Flow { case, first, ops, end: End::Cut(cut) };
    let reply =
        |case, bytes: Vec<u8>, fault| flow(case, modern(), vec![Server(bytes)], Cut::Reply(fault));
    let second = |case, hello: &Draft, cut| {
        let ops = vec![Server(Answer::retry().record()), Client(hello.records())];
        flow(case, modern(), ops, cut)
    };
    let retry =
        |case, op, cut| flow(case, modern(), vec![Server(Answer::retry().record()), op], cut);
    let again = |case, op, cut| {
        let ops = vec![Server(Answer::retry().record()), Client(retried(&modern()).records()), op];
        flow(case, modern(), ops, cut)
    };
    let upload = |case, bytes: Vec<u8>, fault| {
        flow(case, modern(), vec![Server(flight12()), Client(bytes)], Cut::Upload(fault))
    };
    // Issue 17: a legacy ClientHello fitted behind the Finished of a suite with little overhead.
    let with_suite = |case, suite, length: u16| {
        let reply = Server(Answer { suite, ..Answer::tls12() }.record());
        let sent = Client([record(22, &key_exchange()), change()].concat());
        let ops = vec![reply, sent, Client(sealed(22, length.into()))];
        flow(case, modern(), ops, Cut::Upload(Up::Finished(length)))
    };
    let changed = |case, bytes: Vec<u8>, fault| {
        let ops = vec![
            Server(flight12()),
            Client([record(22, &key_exchange()), change()].concat()),
            Client(bytes),
        ];
        flow(case, modern(), ops, Cut::Upload(fault))
    };
    let data = |case, bytes: Vec<u8>, fault| {
        flow(case, modern(), then(finished12(), Client(bytes)), Cut::Upload(fault))
    };
    let patched = |answer: &Answer, at: usize, byte: u8| {
        let mut bytes = answer.message();
        bytes[at] = byte;
        record(22, &bytes)
    };
    let with = |answer: Answer, kind: u16, content: &[u8]| {
        let extensions = [answer.extensions.clone(), vec![(kind, content.to_vec())]].concat();
        Answer { extensions, ..answer }
    };
    let behind = |answer: Answer| record(22, &[answer.message(), message(11, b"")].concat());
    let evil = "evil.example.com";
    let malformed = |fault| Cut::SecondHello(fault);
    use UploadFault as Up;
    let mut flows = vec![
        // Between a hello and its reply.
        flow("data before the reply", modern(), vec![Client(sealed(23, 9))], Cut::BehindHello),
        flow(
            "a hello before the reply",
            modern(),
            vec![Client(modern().named(evil).records())],
            Cut::BehindHello,
        ),
        flow("a byte before the reply", modern(), vec![Client(vec![22])], Cut::BehindHello),
        again("data before the second reply", Client(sealed(23, 9)), Cut::BehindHello),
        again("a third hello", Client(modern().records()), Cut::BehindHello),
        // The reply.
        reply("HTTP", b"HTTP/1.1 400 Bad Request\r\n".to_vec(), ReplyFault::OtherRecord),
        reply("data first", sealed(23, 90), ReplyFault::OtherRecord),
        reply("a change first", change(), ReplyFault::OtherRecord),
        reply("a broken alert", record(21, &[2]), ReplyFault::OtherRecord),
        reply("an alert of level 3", alert(3, 40), ReplyFault::OtherRecord),
        reply("an alert of three bytes", record(21, &[2, 40, 0]), {
            ReplyFault::Record(RecordFault::TooLong(3))
        }),
        reply("an empty record", record(22, b""), ReplyFault::Record(RecordFault::Empty)),
        reply("an SSL 3 record", vec![22, 3, 0, 0, 9], ReplyFault::Record(RecordFault::Ssl3)),
        reply("a certificate first", record(22, &message(11, b"")), ReplyFault::NotServerHello(11)),
        reply("a HelloRequest", record(22, &message(0, b"")), ReplyFault::NotServerHello(0)),
        reply("a ClientHello", modern().records(), ReplyFault::NotServerHello(1)),
        reply("1 MiB", record(22, &[2, 0x10, 0, 0]), ReplyFault::TooLarge),
        reply("an empty ServerHello", record(22, &message(2, b"")), ReplyFault::Length),
        reply(
            "surplus",
            record(22, &{
                let body = [&Answer::tls13().message()[4..], &[0]].concat();
                message(2, &body)
            }),
            ReplyFault::Length,
        ),
        reply(
            "cut in the extensions",
            record(22, &{
                let whole = Answer::tls13().message();
                message(2, &whole[4..whole.len() - 1])
            }),
            ReplyFault::Length,
        ),
        reply("TLS 1.1", patched(&Answer::tls12(), 5, 2), ReplyFault::Version(0x0302)),
        reply("SSL 3", patched(&Answer::tls12(), 5, 0), ReplyFault::Version(0x0300)),
        reply("0x0304 outside", patched(&Answer::tls13(), 5, 4), ReplyFault::Version(0x0304)),
        reply(
            "1.2 in supported_versions",
            with(Answer::tls12(), 43, &[3, 3]).record(),
            ReplyFault::Version(0x0303),
        ),
        reply(
            "two versions",
            with(Answer::tls12(), 43, &[3, 4, 3, 3]).record(),
            ReplyFault::Length,
        ),
        reply(
            "an extension twice",
            with(Answer::tls13(), 51, b"").record(),
            ReplyFault::Duplicate(51),
        ),
        reply(
            "compression",
            Answer { compression: 1, ..Answer::tls12() }.record(),
            ReplyFault::Compresses,
        ),
        reply(
            "another session id",
            Answer { session_id: vec![9; 32], ..Answer::tls13() }.record(),
            ReplyFault::SessionId,
        ),
        reply(
            "a session id of 33",
            Answer { session_id: vec![9; 33], ..Answer::tls12() }.record(),
            ReplyFault::Length,
        ),
        reply(
            "a retry of 1.2",
            Answer { extensions: vec![], ..Answer::retry() }.record(),
            ReplyFault::Version(0x0303),
        ),
        reply("a message behind 1.3's", behind(Answer::tls13()), ReplyFault::MessageBehind),
        reply("a message behind a retry", behind(Answer::retry()), ReplyFault::MessageBehind),
        reply(
            "an alert within",
            {
                let bytes = Answer::tls13().message();
                [record(22, &bytes[..20]), alert(1, 112), record(22, &bytes[20..])].concat()
            },
            ReplyFault::OtherRecord,
        ),
        flow(
            "1.3 to a classic client",
            Draft::classic(),
            vec![Server(Answer { session_id: vec![8; 32], ..Answer::tls13() }.record())],
            Cut::Reply(ReplyFault::NotOffered),
        ),
        flow(
            "a retry to a classic client",
            Draft::classic(),
            vec![Server(Answer::retry().record())],
            Cut::Reply(ReplyFault::NotOffered),
        ),
        flow(
            "1.2 to a client of 1.3",
            modern().with(43, &[2, 3, 4]),
            vec![Server(flight12())],
            Cut::Reply(ReplyFault::NotOffered),
        ),
        flow(
            "a ServerHello after a refusal",
            modern(),
            vec![Server(alert(2, 40)), Server(Answer::tls13().record())],
            Cut::Reply(ReplyFault::AfterAlert),
        ),
        flow(
            "a ServerHello after a close",
            modern(),
            vec![Server(alert(1, 0)), Server(Answer::tls13().record())],
            Cut::Reply(ReplyFault::AfterAlert),
        ),
        flow(
            "a change after a refusal",
            modern(),
            vec![Server(Answer::retry().record()), Server(alert(2, 40)), Server(change())],
            Cut::Reply(ReplyFault::OtherRecord),
        ),
        flow(
            "a hello after a refusal",
            modern(),
            vec![Server(alert(2, 40)), Client(modern().records())],
            Cut::Upload(Up::OutOfOrder),
        ),
        flow(
            "data after a refusal",
            modern(),
            vec![Server(alert(2, 40)), Client(sealed(23, 50))],
            Cut::Upload(Up::OutOfOrder),
        ),
        // The second hello.
        second("another name", &modern().named(evil), Cut::OtherName),
        second("no name", &modern().without(0), malformed(HelloFault::NoName)),
        second("an empty name", &modern().with(0, &names(&[])), malformed(HelloFault::EmptyName)),
        second("two names", &modern().twice(0, &names(&[(0, evil.as_bytes())])), {
            malformed(HelloFault::Duplicate(0))
        }),
        second("ECH", &modern().with(0xfe0d, &[0; 9]), malformed(HelloFault::Encrypted(0xfe0d))),
        second("early data", &modern().with(42, b""), malformed(HelloFault::EarlyData)),
        second("old versions", &modern().with(43, &[2, 3, 2]), malformed(HelloFault::TooOld)),
        second("1.2 only", &modern().with(43, &[2, 3, 3]), Cut::OtherHello),
        second("no versions", &modern().without(43), Cut::OtherHello),
        second("another random", &Draft { random: [1; 32], ..modern() }, Cut::OtherHello),
        second("another session", &Draft { session_id: vec![], ..modern() }, Cut::OtherHello),
        second("other suites", &Draft { suites: vec![0x13, 1], ..modern() }, Cut::OtherHello),
        retry("another message", Client(record(22, &message(20, b""))), {
            malformed(HelloFault::NotClientHello(20))
        }),
        retry("data for a hello", Client(sealed(23, 40)), malformed(HelloFault::NotTls)),
        retry("a change of 2", Client(record(20, &[2])), Cut::Upload(Up::ChangeCipherSpec)),
        retry("a long change", Client(record(20, &[1, 1])), Cut::Upload(Up::ChangeCipherSpec)),
        retry("the server goes on", Server(Answer::tls13().record()), {
            Cut::Reply(ReplyFault::OutOfTurn)
        }),
        retry("a change of 0 from the server", Server(record(20, &[0])), {
            Cut::Reply(ReplyFault::OtherRecord)
        }),
        again("a second retry", Server(Answer::retry().record()), {
            Cut::Reply(ReplyFault::SecondRetry)
        }),
        again("1.2 after a retry", Server(flight12()), Cut::Reply(ReplyFault::Downgrade)),
        // The upload of TLS 1.2.
        upload("a hello", modern().records(), Up::Renegotiation),
        upload("a hello of another name", modern().named(evil).records(), Up::Renegotiation),
        upload(
            "a hello behind the key",
            record(22, &[key_exchange(), modern().message()].concat()),
            Up::Renegotiation,
        ),
        upload("data in the clear", sealed(23, 9), Up::OutOfOrder),
        upload("a heartbeat", sealed(24, 9), Up::Record(RecordFault::Kind(24))),
        upload("no TLS", b"GET / HTTP/1.1".to_vec(), Up::Record(RecordFault::Kind(b'G'))),
        upload("an empty record", record(22, b""), Up::Record(RecordFault::Empty)),
        upload("a long record", vec![22, 3, 3, 0x40, 1], Up::Record(RecordFault::TooLong(0x4001))),
        upload("a Finished in the clear", record(22, &message(20, &[1; 12])), Up::Message(20)),
        upload("NextProtocol in the clear", record(22, &message(67, b"")), Up::Message(67)),
        upload(
            "the key twice",
            record(22, &[key_exchange(), key_exchange()].concat()),
            Up::Message(16),
        ),
        upload(
            "the certificate late",
            record(22, &[key_exchange(), message(11, b"")].concat()),
            Up::Message(11),
        ),
        upload("a change of 2", record(20, &[2]), Up::ChangeCipherSpec),
        upload("a broken alert", record(21, &[2]), Up::Alert),
        changed("data for a Finished", sealed(23, 40), Up::OutOfOrder),
        changed("a second change", change(), Up::OutOfOrder),
        changed("a Finished and more", sealed(22, 97), Up::Finished(97)),
        with_suite("ChaCha20's Finished and a hello", 0xcca9, 33),
        with_suite("CCM-8's Finished and a hello", 0xc0ae, 33),
        with_suite("NULL's Finished and a hello", 0xc006, 65),
        changed("a hello for a Finished", modern().records(), {
            Up::Finished(u16::try_from(modern().message().len()).unwrap())
        }),
        // Application data, for the lifetime of the tunnel.
        data("a renegotiation", sealed(22, 40), Up::Renegotiation),
        data("a second Finished", sealed(22, 32), Up::Renegotiation),
        data("a change", sealed(20, 1), Up::Renegotiation),
        data("a heartbeat later", sealed(24, 9), Up::Record(RecordFault::Kind(24))),
        data("an empty record later", vec![23, 3, 3, 0, 0], Up::Record(RecordFault::Empty)),
        data("a long record later", vec![23, 3, 3, 0x48, 1], {
            Up::Record(RecordFault::TooLong(0x4801))
        }),
        data("no TLS later", b"hello, world".to_vec(), Up::Record(RecordFault::Kind(b'h'))),
    ];
    flows.extend([
        flow(
            "two changes",
            modern(),
            vec![Server(Answer::retry().record()), Client(change()), Client(change())],
            Cut::Upload(Up::ChangeCipherSpec),
        ),
        flow(
            "two changes of the server",
            modern(),
            vec![Server(Answer::retry().record()), Server(change()), Server(change())],
            Cut::Reply(ReplyFault::OtherRecord),
        ),
        flow(
            "a change within the key",
            modern(),
            vec![Server(flight12()), Client(record(22, &key_exchange()[..20])), Client(change())],
            Cut::Upload(Up::ChangeCipherSpec),
        ),
        flow(
            "a change behind a bare certificate",
            modern(),
            vec![
                Server(flight12()),
                Client(record(22, &message(11, &[0, 0, 0]))),
                Client(change()),
            ],
            Cut::Upload(Up::ChangeCipherSpec),
        ),
    ]);
    flows
}
