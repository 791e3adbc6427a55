//! Two-way flows through a gate: no byte of a forbidden record passes, and no byte after it.

use pullgate::hello::{ACCESS_DENIED, Cut, Guard, HelloReader, HelloStep, Output};
use pullgate::policy::Reason;

use crate::cases::drafts::{Draft, record};
use crate::cases::flows::{End, Flow, Op, offending, passing};
use crate::site::{CONNECT, Feeding, PATIENT, Peer, Site, on_a_site};

/// A tunnel whose first hello was forwarded.
pub struct Tunnel {
    pub client: Peer,
    pub upstream: Peer,
    /// The pure guard, which computes what must pass; it is in the same state as the gate's.
    guard: Guard,
}

impl Tunnel {
    pub async fn open(site: &Site, first: &Draft) -> Self {
        let hello = first.records();
        let mut client = site.client(site.connect).await;
        client.send(&[CONNECT.as_bytes(), &hello].concat(), Feeding::Whole).await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 "));
        let mut upstream = site.dialled().await;
        assert_eq!(upstream.take(hello.len()).await, hello);
        let Ok(HelloStep::Complete(hello)) = HelloReader::new().feed(&hello) else {
            panic!("a hello")
        };
        Self { client, upstream, guard: Guard::new(hello.facts) }
    }

    /// Executes an operation, and waits until all bytes that may pass have passed.
    pub async fn step(&mut self, op: &Op, feeding: Feeding, case: &str) -> Result<Output, Cut> {
        let mut passes = Output::default();
        let judged = match op {
            Op::Client(bytes) => {
                self.client.send(bytes, feeding).await;
                self.guard.client(bytes, &mut passes)
            }
            Op::Server(bytes) => {
                self.upstream.send(bytes, feeding).await;
                self.guard.server(bytes, &mut passes)
            }
        };
        let came = self.upstream.take(passes.to_server.len()).await;
        assert_eq!(came, passes.to_server, "{case}");
        let came = self.client.take(passes.to_client.len()).await;
        assert_eq!(came, passes.to_client, "{case}");
        judged.map(|()| passes)
    }
}

#[test]
fn honest_flows_pass() {
    on_a_site(PATIENT, async |site| {
        for Flow { case, first, ops, .. } in passing() {
            for feeding in Feeding::ALL {
                let case = format!("{case}, {feeding:?}");
                let mut tunnel = Tunnel::open(&site, &first).await;
                for op in &ops {
                    tunnel.step(op, feeding, &case).await.unwrap();
                }
                drop(tunnel.upstream);
                let mut more = Vec::new();
                more.extend(tunnel.client.rest().await.0);
                // Before the server's first byte, its close is a failure, and the client gets an
                // alert.
                assert!(more.is_empty() || !tunnel.guard.served(), "{case}: {more:02x?}");
            }
        }
        let lines = site.close().await;
        let denied: Vec<_> = lines.values().filter(|line| line["outcome"] == "denied").collect();
        assert!(denied.is_empty(), "{denied:?}");
    });
}

#[test]
fn offences_are_cut_and_nothing_of_them_passes() {
    on_a_site(PATIENT, async |site| {
        let mut expected = Vec::new();
        for Flow { case, first, ops, end } in offending() {
            let End::Cut(cut) = end else { panic!("{case} is no offence") };
            for feeding in Feeding::ALL {
                let case = format!("{case}, {feeding:?}");
                let mut tunnel = Tunnel::open(&site, &first).await;
                let (offence, before) = ops.split_last().unwrap();
                for op in before {
                    tunnel.step(op, feeding, &case).await.unwrap();
                }
                assert_eq!(tunnel.step(offence, feeding, &case).await, Err(cut), "{case}");
                assert_ends(&mut tunnel, &case).await;
                expected.push((case, tunnel.client.source, cut.reason()));
            }
        }
        let lines = site.close().await;
        for (case, client, reason) in expected {
            let line = &lines[&client];
            assert_eq!(line["outcome"], "denied", "{case}: {line}");
            assert_eq!(line["reason"], reason.code(), "{case}: {line}");
        }
    });
}

/// The client receives an alert if it can still read one, and nothing else passes in either
/// direction.
async fn assert_ends(tunnel: &mut Tunnel, case: &str) {
    let alert: &[u8] = if tunnel.guard.served() { &[] } else { &ACCESS_DENIED };
    assert_eq!(tunnel.client.rest().await, (alert.to_vec(), None), "{case}");
    assert!(tunnel.upstream.rest().await.0.is_empty(), "{case}");
}

/// Bytes after a hello that arrive separately: the hello was forwarded, they are not.
#[test]
fn bytes_behind_a_hello_do_not_pass_while_the_server_is_silent() {
    on_a_site(PATIENT, async |site| {
        let modern = Draft::modern();
        for behind in [
            modern.clone().named("evil.example.com").records(),
            record(23, b"x"),
            record(20, &[1]),
            record(21, &[1, 0]),
            vec![22],
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        ] {
            for feeding in Feeding::ALL {
                let case = format!("{behind:02x?}, {feeding:?}");
                let mut tunnel = Tunnel::open(&site, &modern).await;
                let cut = tunnel.step(&Op::Client(behind.clone()), feeding, &case).await;
                assert_eq!(cut.map_err(Cut::reason), Err(Reason::HelloMalformed), "{case}");
                assert_ends(&mut tunnel, &case).await;
            }
        }
    });
}

/// A client that gives up on a silent server immediately frees its session and the upstream
/// connection.
#[test]
fn a_client_that_leaves_before_the_server_has_spoken_ends_the_session() {
    on_a_site(PATIENT, async |site| {
        let mut tunnel = Tunnel::open(&site, &Draft::modern()).await;
        let source = tunnel.client.source;
        drop(tunnel.client);
        assert!(tunnel.upstream.rest().await.0.is_empty());
        let lines = site.close().await;
        assert_eq!(lines[&source]["reason"], "client-aborted", "{}", lines[&source]);
    });
}
