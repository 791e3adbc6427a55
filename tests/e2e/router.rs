//! A router behind the gate, which chooses its server by the SNI that it reads itself.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use crate::cases::drafts::{Draft, records};
use crate::harness::{Blobs, Lab, Policy, connect_through, wait_until};

const HOST: &str = "contoso.azurecr.io";
const ROUTER: &str = "127.0.9.9:443";

/// Issue 17: HAProxy 2.6 sent each of these to its default server when they came in several records.
/// By default it reads at most 15 KiB of a hello (`tune.bufsize` less `tune.maxrewrite`).
#[test]
fn haproxy_reads_the_name_that_the_gate_judged() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let judged = TcpListener::bind("127.0.9.1:0").unwrap();
    let other = TcpListener::bind("127.0.9.2:0").unwrap();
    let config = format!(
        "defaults\n mode tcp\n timeout connect 10s\n timeout client 60s\n timeout server 60s\n\
         frontend router\n bind {ROUTER}\n tcp-request inspect-delay 10s\n \
         tcp-request content accept if {{ req.ssl_hello_type 1 }}\n tcp-request content reject\n \
         use_backend judged if {{ req.ssl_sni {HOST} }}\n default_backend other\n\
         backend judged\n server one {}\nbackend other\n server one {}\n",
        judged.local_addr().unwrap(),
        other.local_addr().unwrap()
    );
    let file = lab.dir().join("router.cfg");
    fs::write(&file, config).unwrap();
    let router = lab.daemon("router", &["haproxy", "-db", "-f", file.to_str().unwrap()]);
    let _router = router.accepts(ROUTER.parse().unwrap());
    let hosts = "[dns.hosts]\n\"contoso.azurecr.io\" = [\"127.0.9.9\"]\n\
                 \"contoso.eastus.data.azurecr.io\" = [\"127.0.1.2\"]\n";
    let _gate = lab.gate(&Policy::of(&["contoso"]).with_dns(hosts));
    other.set_nonblocking(true).unwrap();
    let draft = Draft::modern().named(HOST);
    let long = draft.clone().with(21, &vec![0; 14 * 1024]);
    for (case, sent) in [
        ("one record", draft.records()),
        ("two records", records(&draft.message(), 150)),
        ("records of one byte", records(&draft.message(), 1)),
        ("14 KiB in three records", records(&long.message(), 6000)),
    ] {
        let (mut client, line) = connect_through("127.0.0.1:3128", &format!("{HOST}:443"), "");
        assert!(line.starts_with("HTTP/1.1 200"), "{case}: {line}");
        client.write_all(&sent).unwrap();
        judged.set_nonblocking(true).unwrap();
        let mut server = wait_until(&format!("{case} reaches the server"), || {
            assert!(other.accept().is_err(), "{case}: the router read another name");
            judged.accept().ok().map(|(stream, _)| stream)
        });
        server.set_nonblocking(false).unwrap();
        let mut header = [0; 5];
        server.read_exact(&mut header).unwrap();
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        assert_eq!((header[0], length), (22, rejoined(&sent)), "{case}: one record");
    }
}

/// Returns the size of the message that some records carry.
fn rejoined(mut sent: &[u8]) -> usize {
    let mut size = 0;
    while let Some(&[_, _, _, high, low]) = sent.first_chunk::<5>() {
        let length = usize::from(u16::from_be_bytes([high, low]));
        (size, sent) = (size + length, &sent[5 + length..]);
    }
    size
}
