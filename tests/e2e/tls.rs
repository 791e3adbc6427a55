//! Several TLS clients, and what their ClientHellos can and cannot contain.

use std::fs;

use crate::harness::{Blobs, Lab, Policy, Way, relayed_or_aborted};

const DATA: &str = "contoso.eastus.data.azurecr.io";
const FILE: &str = "https://contoso.eastus.data.azurecr.io/hello";

/// Fetches a file with a version of TLS and a hello with this many KiB of invented protocols.
const PYTHON: &str = r#"
import ssl, sys, urllib.request
context = ssl.create_default_context()
context.minimum_version = context.maximum_version = ssl.TLSVersion[sys.argv[2]]
many = int(sys.argv[3]) * 4 if len(sys.argv) > 3 else 0
context.set_alpn_protocols(["http/1.1"] + ["%03d" % number * 85 for number in range(many)])
handlers = [urllib.request.ProxyHandler(), urllib.request.HTTPSHandler(context=context)]
print(urllib.request.build_opener(*handlers).open(sys.argv[1]).read().decode(), end="")
"#;

#[test]
pub fn legal_clients_of_every_make_pass() {
    let lab = Lab::new(Blobs::DataEndpoint);
    fs::write(lab.served("contoso").join("hello"), "well met").unwrap();
    let script = lab.dir().join("client.py");
    fs::write(&script, PYTHON).unwrap();
    let python = |arguments| format!("python3 {} {FILE} {arguments}", script.display());
    let s_client = |arguments| {
        format!(
            "printf 'GET /hello HTTP/1.0\\r\\nHost: {DATA}\\r\\n\\r\\n' | openssl s_client -quiet \
             -verify_quiet -proxy 127.0.0.1:3128 -connect {DATA}:443 -servername {DATA} \
             {arguments} | tail -n 1"
        )
    };
    // 60 protocols of 255 characters, and the one that the server supports.
    let invented: Vec<String> = (10..70).map(|number| number.to_string().repeat(127)).collect();
    let long = format!("-alpn http/1.1,{}", invented.join(","));
    let gate = lab.gate(&Policy::of(&["contoso"]));
    let clients = [
        ("TLS 1.3", format!("curl -sSf {FILE}")),
        ("TLS 1.2", format!("curl -sSf --tls-max 1.2 {FILE}")),
        ("HTTP/1.0 CONNECT", format!("curl -sSf --proxy1.0 127.0.0.1:3128 {FILE}")),
        ("an honest HelloRetryRequest", format!("curl -sSf --curves secp521r1:X25519 {FILE}")),
        ("Python, TLS 1.3", python("TLSv1_3")),
        ("Python, TLS 1.2", python("TLSv1_2")),
        ("Python, 15 KiB", python("TLSv1_3 15")),
        ("Python, TLS 1.2, 15 KiB", python("TLSv1_2 15")),
        ("OpenSSL, TLS 1.3", s_client("-tls1_3")),
        ("OpenSSL, TLS 1.2", s_client("-tls1_2")),
        ("OpenSSL, 15 KiB", s_client(&long)),
    ];
    for (name, client) in &clients {
        let ran = lab.run(Way::Through(&gate), &["sh", "-c", client]).succeeded();
        assert_eq!(ran.stdout(), "well met", "{name}");
    }
    let lines = gate.audit_of_all();
    assert_eq!(lines.len(), clients.len());
    let long = lines.iter().filter(|line| line["bytes-up"].as_u64() > Some(15 * 1024)).count();
    assert_eq!(long, 3, "hellos of 15 KiB: {lines:?}");
    assert!(lines.iter().all(relayed_or_aborted), "{lines:?}");
}

/// Go clients have no option for the TLS version, so the server supports only 1.2.
#[test]
pub fn go_pulls_from_a_registry_of_tls_1_2() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let image = lab.push("contoso.azurecr.io/app:1", 1, &[2 << 20, 2000]);
    let config = fs::read_to_string(lab.dir().join("nginx.conf")).unwrap();
    let old = config
        .replace("TLSv1.2 TLSv1.3", "TLSv1.2")
        .replace(":443", ":1443")
        .replace("nginx.pid", "nginx12.pid");
    let file = lab.dir().join("nginx12.conf");
    fs::write(&file, old).unwrap();
    let (dir, file) = (lab.dir().display().to_string(), file.display().to_string());
    let _old = lab
        .daemon("nginx12", &["nginx", "-p", &dir, "-c", &file])
        .accepts("127.0.1.1:1443".parse().unwrap());
    let newer = format!("openssl s_client -connect 127.0.1.2:1443 -servername {DATA} -tls1_3");
    lab.sh(Way::Direct, &newer).failed();

    let hosts = format!(
        "[dns.hosts]\n\"contoso.azurecr.io\" = \"127.0.1.1:1443\"\n\"{DATA}\" = \"127.0.1.2:1443\"\n"
    );
    let gate = lab.gate(&Policy::of(&["contoso"]).with_dns(&hosts));
    let to = lab.dir().join("pulled");
    let copy = format!("skopeo copy docker://contoso.azurecr.io/app:1 dir:{}", to.display());
    lab.sh(Way::Through(&gate), &copy).succeeded();
    for (digest, _) in &image.layers {
        assert!(to.join(&digest[7..]).exists(), "{digest} was not pulled");
    }
    let lines = gate.audit_of_all();
    assert!(lines.iter().all(relayed_or_aborted), "{lines:?}");
    assert!(lines.iter().any(|line| line["sni"] == DATA), "{lines:?}");
}

#[test]
pub fn what_is_not_a_hello_for_the_allowed_host_never_reaches_it() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let gate = lab.gate(&Policy::of(&["contoso"]));
    let s_client = "openssl s_client -proxy 127.0.0.1:3128 -connect contoso.azurecr.io:443";
    for (code, client) in [
        ("sni-missing", format!("{s_client} -noservername")),
        ("sni-mismatch", format!("{s_client} -servername fabrikam.azurecr.io")),
        ("tls-too-old", format!("{s_client} -tls1_1 -cipher DEFAULT@SECLEVEL=0")),
        (
            "not-tls",
            "curl -sS --proxy 127.0.0.1:3128 -p http://contoso.azurecr.io:443/v2/".to_owned(),
        ),
    ] {
        let ran = lab.sh(Way::Through(&gate), &client).failed();
        let line = gate.audited(&[("outcome", "denied"), ("reason", code)]);
        assert_eq!(line["bytes-down"], 0, "{line}");
        assert_eq!(line["bytes-up"], 0, "{line}");
        let answered = ran.text.contains("access denied") || code == "not-tls";
        assert!(answered, "{code}: the alert says why:\n{}", ran.text);
    }
    assert_eq!(lab.asked("contoso.azurecr.io"), "", "no request reached the registry");
}

#[test]
pub fn a_renegotiation_cuts_the_tunnel() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let gate = lab.gate(&Policy::of(&["contoso"]));
    // `R` on a separate line makes s_client start a renegotiation.
    let client = "printf 'R\\n' | openssl s_client -tls1_2 -proxy 127.0.0.1:3128 \
                  -connect contoso.azurecr.io:443 -servername contoso.azurecr.io";
    let ran = lab.run(Way::Through(&gate), &["sh", "-c", client]);
    assert!(ran.text.contains("RENEGOTIATING"), "{}", ran.text);
    let line = gate.audited(&[("reason", "renegotiation")]);
    assert_eq!(line["outcome"], "denied", "{line}");
}
