//! First ClientHellos, in a tunnel and on a transparent listener.

use std::collections::HashMap;
use std::net::IpAddr;

use pullgate::hello::{ACCESS_DENIED, Hello, HelloFault, HelloReader, HelloStep};
use pullgate::policy::{Limits, Reason};
use serde_json::Value;

use crate::cases::drafts::Draft;
use crate::cases::hellos::{hostile, legal};
use crate::site::{CONNECT, Feeding, PATIENT, Site, on_a_site};

/// A fatal alert from the server, which ends a session that reached it.
const HANDSHAKE_FAILURE: [u8; 7] = [21, 3, 3, 0, 2, 2, 40];

/// Well-formed hellos that name another host, and the verdict of the transparent listener.
const STRANGERS: &[(&str, Reason)] = &[
    ("localhost", Reason::HelloMalformed),
    ("evil.example.com", Reason::HostNotAllowed),
    ("contoso.azurecr.io.evil.com", Reason::HostNotAllowed),
    ("contoso.eastus.data.azurecr.io", Reason::HostNotAllowed),
    ("fabrikam.azurecr.io", Reason::OtherRegistry),
    ("x.contoso.azurecr.io", Reason::OtherRegistry),
    ("contoso.blob.core.windows.net", Reason::StorageAccount),
];

/// Malformed hellos and their reasons. Bytes after a hello make it malformed only if they arrive
/// together with it; split at its end, the hello is legal, and `flows` covers the rest.
fn malformed() -> Vec<(&'static str, Vec<u8>, Reason, &'static [Feeding])> {
    hostile()
        .into_iter()
        .map(|(case, bytes, fault)| {
            let feedings = match fault {
                HelloFault::BytesBehind => &Feeding::ALL[..1],
                _ => &Feeding::ALL[..],
            };
            (case, bytes, fault.reason(), feedings)
        })
        .collect()
}

#[track_caller]
fn assert_denied(
    lines: &HashMap<IpAddr, Value>,
    expected: Vec<(String, IpAddr, Reason)>,
    dialled: bool,
) {
    assert!(!expected.is_empty());
    for (case, client, reason) in expected {
        let line = &lines[&client];
        assert_eq!(line["outcome"], "denied", "{case}: {line}");
        assert_eq!(line["reason"], reason.code(), "{case}: {line}");
        assert_eq!((&line["bytes-up"], &line["bytes-down"]), (&0.into(), &0.into()), "{case}");
        assert_eq!(line["upstream"].is_string(), dialled, "{case}: {line}");
    }
}

#[test]
fn denied_hellos_in_a_tunnel_send_no_byte_upstream() {
    on_a_site(PATIENT, async |site| {
        let mut expected = Vec::new();
        let strangers = STRANGERS.iter().map(|(name, reason)| {
            let bytes = Draft::modern().named(name).records();
            let reason = match reason {
                Reason::HelloMalformed => Reason::HelloMalformed,
                _ => Reason::SniMismatch,
            };
            (*name, bytes, reason, &Feeding::ALL[..])
        });
        for (case, hello, reason, feedings) in malformed().into_iter().chain(strangers) {
            for feeding in feedings {
                let case = format!("{case}, {feeding:?}");
                let mut client = site.client(site.connect).await;
                client.send(CONNECT.as_bytes(), Feeding::Whole).await;
                assert!(client.head().await.starts_with("HTTP/1.1 200 "), "{case}");
                let mut upstream = site.dialled().await;
                client.send(&hello, *feeding).await;
                assert_eq!(client.rest().await, (ACCESS_DENIED.to_vec(), None), "{case}");
                assert!(upstream.rest().await.0.is_empty(), "{case}");
                expected.push((case, client.source, reason));
            }
        }
        assert_denied(&site.close().await, expected, true);
    });
}

#[test]
fn denied_hellos_behind_their_request_send_no_byte_upstream() {
    on_a_site(PATIENT, async |site| {
        let mut expected = Vec::new();
        for (case, hello, reason, _) in malformed() {
            let dials = site.dials();
            let mut client = site.client(site.connect).await;
            client.send(&[CONNECT.as_bytes(), &hello].concat(), Feeding::Whole).await;
            let head = client.head().await;
            if head.starts_with("HTTP/1.1 403 pullgate: ") {
                // The first byte was sufficient for the verdict.
                assert!(head.contains("[not-tls ") && hello[0] != 22, "{head}: {case}");
                client.rest().await;
                assert_eq!(site.dials(), dials, "{case}");
                continue;
            }
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}: {case}");
            let mut upstream = site.dialled().await;
            assert_eq!(client.rest().await, (ACCESS_DENIED.to_vec(), None), "{case}");
            assert!(upstream.rest().await.0.is_empty(), "{case}");
            expected.push((case.to_owned(), client.source, reason));
        }
        assert_denied(&site.close().await, expected, true);
    });
}

#[test]
fn denied_hellos_on_a_transparent_listener_ask_and_dial_nothing() {
    on_a_site(PATIENT, async |site| {
        let mut expected = Vec::new();
        let strangers = STRANGERS.iter().map(|(name, reason)| {
            let bytes = Draft::modern().named(name).records();
            (*name, bytes, *reason, &Feeding::ALL[..])
        });
        for (case, hello, reason, feedings) in malformed().into_iter().chain(strangers) {
            for feeding in feedings {
                let case = format!("{case}, {feeding:?}");
                let mut client = site.client(site.transparent).await;
                client.send(&hello, *feeding).await;
                assert_eq!(client.rest().await, (ACCESS_DENIED.to_vec(), None), "{case}");
                assert!(site.asked().is_empty() && site.dials() == 0, "{case}");
                expected.push((case, client.source, reason));
            }
        }
        site.assert_nothing_went_out(0).await;
        assert_denied(&site.close().await, expected, false);
    });
}

#[test]
fn legal_hellos_reach_the_upstream_in_the_fewest_records() {
    on_a_site(PATIENT, async |site| {
        let largest = 5 + Limits::default().hello_bytes;
        for (case, hello) in legal() {
            let Ok(HelloStep::Complete(Hello { raw, .. })) = HelloReader::new().feed(&hello) else {
                panic!("{case}");
            };
            if raw.len() > largest {
                continue;
            }
            for feeding in Feeding::ALL {
                for to in [site.connect, site.transparent] {
                    let case = format!("{case}, {feeding:?}, {to}");
                    pass(&site, to, (&hello, &raw), feeding, &case).await;
                }
            }
        }
        let lines = site.close().await;
        assert!(lines.values().all(|line| line["outcome"] == "relayed"));
    });
}

/// Sends a hello, and expects that its other form reaches the upstream.
async fn pass(
    site: &Site,
    to: std::net::SocketAddr,
    (hello, framed): (&[u8], &[u8]),
    feeding: Feeding,
    case: &str,
) {
    let mut client = site.client(to).await;
    if to == site.connect {
        client.send(CONNECT.as_bytes(), Feeding::Whole).await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 "), "{case}");
    }
    client.send(hello, feeding).await;
    let mut upstream = site.dialled().await;
    assert_eq!(upstream.take(framed.len()).await, framed, "{case}");
    upstream.send(&HANDSHAKE_FAILURE, feeding).await;
    assert_eq!(client.take(HANDSHAKE_FAILURE.len()).await, HANDSHAKE_FAILURE, "{case}");
    drop(upstream);
    assert_eq!(client.rest().await, (vec![], None), "{case}");
}
