//! Requests: rejected requests are answered, and cause no look-up and no outgoing connection.

use pullgate::policy::Reason;

use crate::cases::heads::{Verdict, heads};
use crate::site::{CONNECT, Feeding, PATIENT, on_a_site};

/// Well-formed requests that the policy denies.
pub const DENIED: &[(&str, Reason)] = &[
    ("localhost:443", Reason::BadTarget),
    ("contoso:443", Reason::BadTarget),
    ("contoso.azurecr.io:8443", Reason::PortNotAllowed),
    ("contoso.azurecr.io.evil.com:443", Reason::HostNotAllowed),
    ("evil.com:443", Reason::HostNotAllowed),
    ("contoso.eastus.data.azurecr.io:443", Reason::HostNotAllowed),
    ("c29tZSBzZWNyZXQ.evil.com:443", Reason::HostNotAllowed),
    ("fabrikam.azurecr.io:443", Reason::OtherRegistry),
    ("x.contoso.azurecr.io:443", Reason::OtherRegistry),
    ("ghcr.io:443", Reason::OtherRegistry),
    ("contoso.blob.core.windows.net:443", Reason::StorageAccount),
    ("contoso.blob.core.windows.net:80", Reason::StorageAccount),
];

fn refused() -> Vec<(Vec<u8>, Reason)> {
    let wrong = heads().into_iter().filter_map(|(head, verdict)| match verdict {
        Verdict::Wrong(fault) => Some((head, fault.denial().reason)),
        Verdict::Whole | Verdict::Half => None,
    });
    let denied = DENIED.iter().map(|(target, reason)| {
        (format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").into_bytes(), *reason)
    });
    wrong.chain(denied).collect()
}

#[test]
fn denied_requests_are_answered_and_nothing_goes_out() {
    on_a_site(PATIENT, async |site| {
        for (request, reason) in refused() {
            for feeding in Feeding::ALL {
                let case = format!("{feeding:?} {:?}", String::from_utf8_lossy(&request));
                let mut client = site.client(site.connect).await;
                client.send(&request, feeding).await;
                let (answer, broken) = client.rest().await;
                let answer = String::from_utf8(answer).unwrap();
                assert_eq!(broken, None, "closed in order: {case}");
                let code = format!("[{} ", reason.code());
                let line = answer.lines().next().unwrap_or_default();
                assert!(line.starts_with("HTTP/1.1 4"), "{line}: {case}");
                assert!(line.contains(&code), "{line}: {case}");
                assert!(site.asked().is_empty() && site.dials() == 0, "{case}");
            }
        }
        site.assert_nothing_went_out(0).await;
    });
}

/// Bytes directly after a request that are not TLS, in particular a second request.
#[test]
fn pipelined_requests_are_answered_once_and_nothing_goes_out() {
    on_a_site(PATIENT, async |site| {
        let second = [
            CONNECT,
            "GET http://contoso.azurecr.io/v2/ HTTP/1.1\r\n\r\n",
            "CONNECT fabrikam.azurecr.io:443 HTTP/1.1\r\n\r\n",
            "\r\n",
            "SSH-2.0-OpenSSH_9\r\n",
            "\0",
        ];
        for second in second {
            let mut client = site.client(site.connect).await;
            client.send(format!("{CONNECT}{second}").as_bytes(), Feeding::Whole).await;
            let (answer, broken) = client.rest().await;
            let answer = String::from_utf8(answer).unwrap();
            assert_eq!(broken, None, "{second:?}");
            assert!(answer.starts_with("HTTP/1.1 403 pullgate: "), "{answer}");
            assert!(answer.contains("[not-tls "), "{answer}");
            assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
            assert!(site.asked().is_empty() && site.dials() == 0, "{second:?}");
        }
        site.assert_nothing_went_out(0).await;
    });
}

#[test]
fn legal_requests_pass_and_halves_are_waited_for() {
    on_a_site(PATIENT, async |site| {
        for (request, verdict) in heads() {
            for feeding in Feeding::ALL {
                let case = format!("{feeding:?} {:?}", String::from_utf8_lossy(&request));
                let mut client = site.client(site.connect).await;
                match verdict {
                    Verdict::Whole => {
                        // A case can have tunnel bytes after its head.
                        client.send(&request, feeding).await;
                        assert!(client.head().await.contains(" 200 OK\r\n"), "{case}");
                        let mut upstream = site.dialled().await;
                        drop(client);
                        assert_eq!(upstream.rest().await, (vec![], None), "{case}");
                    }
                    Verdict::Half => {
                        let dials = site.dials();
                        client.send(&request, feeding).await;
                        drop(client);
                        assert_eq!(site.dials(), dials, "{case}");
                    }
                    Verdict::Wrong(_) => {}
                }
            }
        }
    });
}
