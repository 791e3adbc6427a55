//! A load balancer in front of the gate: only its PROXY header determines the client's address.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::harness::{Blobs, Lab, PATIENCE, Policy, Way, haproxy};

const URL: &str = "https://contoso.azurecr.io/v2/";

fn listening(mode: &str, port: u16, from: &str) -> String {
    format!(
        "[[listen]]\nmode = \"{mode}\"\naddress = \"127.0.0.1:{port}\"\n\
         proxy-protocol = \"required\"\nproxy-protocol-from = [\"{from}\"]\n"
    )
}

#[test]
pub fn behind_haproxy_the_client_keeps_its_address() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let behind =
        listening("connect", 3129, "127.0.0.1") + &listening("transparent", 3130, "127.0.0.0/8");
    let gate = lab.gate(&Policy::of(&["contoso"]).with_more(&behind));
    let _haproxy = haproxy(
        &lab,
        &[
            ("127.0.4.1:3128", "127.0.0.1:3129 send-proxy"),
            ("127.0.4.2:3128", "127.0.0.1:3129 send-proxy-v2"),
            ("127.0.4.3:443", "127.0.0.1:3130 send-proxy-v2 proxy-v2-options crc32c,unique-id"),
        ],
    );
    for (client, way) in [
        ("127.0.5.1", "--proxy http://127.0.4.1:3128"),
        ("127.0.5.2", "--proxy http://127.0.4.2:3128"),
        ("127.0.5.3", "--connect-to contoso.azurecr.io:443:127.0.4.3:443"),
    ] {
        let line = format!("curl -sS -o /dev/null --interface {client} {way} {URL}");
        lab.sh(Way::Direct, &line).succeeded();
        let line = gate.audited(&[("client", client)]);
        assert_eq!(line["outcome"], "relayed", "{line}");
        assert_eq!(line["facts"]["balancer"], "127.0.0.1", "{line}");
    }
    // curl sends its own PROXY header, and its address is permitted to.
    let own = "--haproxy-protocol --connect-to contoso.azurecr.io:443:127.0.0.1:3130";
    let line = format!("curl -sS -o /dev/null --interface 127.0.5.4 {own} {URL}");
    lab.sh(Way::Direct, &line).succeeded();
    gate.audited(&[("client", "127.0.5.4"), ("outcome", "relayed")]);
    let (_, listeners) = gate.admin("/listeners");
    assert!(listeners.contains("127.0.0.1/32"), "{listeners}");
}

#[test]
fn no_header_and_a_strangers_header_are_refused() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let behind =
        listening("connect", 3129, "127.0.0.1/32") + &listening("transparent", 3130, "127.0.0.2");
    let gate = lab.gate(&Policy::of(&["contoso"]).with_more(&behind));
    let through = "--proxy http://127.0.0.1:3129";
    for (client, says) in
        [("127.0.0.1", "there is none"), ("127.0.6.1", "its sender is not in proxy-protocol-from")]
    {
        let line = format!("curl -sv --interface {client} {through} {URL}");
        let ran = lab.sh(Way::Direct, &line).failed();
        let rejected = ran.text.contains("HTTP/1.1 400 pullgate: ") && ran.text.contains(says);
        assert!(rejected && ran.text.contains("proxy-header-invalid"), "{}", ran.text);
        let line = gate.audited(&[("client", client), ("reason", "proxy-header-invalid")]);
        assert_eq!(line["outcome"], "denied", "{line}");
    }
    // If the client uses TLS, it receives the answer inside TLS.
    let transparent = "--connect-to contoso.azurecr.io:443:127.0.0.1:3130";
    for (client, header) in
        [("127.0.6.2", "--haproxy-protocol"), ("127.0.6.3", ""), ("127.0.0.2", "")]
    {
        let line = format!("curl -sv {header} --interface {client} {transparent} {URL}");
        let ran = lab.sh(Way::Direct, &line).failed();
        assert!(ran.text.contains("access denied"), "{}", ran.text);
        gate.audited(&[
            ("client", client),
            ("listener", "127.0.0.1:3130"),
            ("reason", "proxy-header-invalid"),
        ]);
    }
    // On a listener without the PROXY protocol, a header is a malformed request.
    let mut liar = TcpStream::connect("127.0.0.1:3128").unwrap();
    liar.set_read_timeout(Some(PATIENCE)).unwrap();
    liar.write_all(b"PROXY TCP4 127.0.9.9 127.0.0.1 1 2\r\n\r\n").unwrap();
    let mut answer = String::new();
    liar.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("head-malformed"), "{answer}");
    assert_eq!(lab.asked("contoso.azurecr.io"), "");
}
