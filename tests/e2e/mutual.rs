//! TLS on the proxy's port, and clients that authenticate with certificates made with OpenSSL.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::{
    Authority, Blobs, Certificate, Gate, Lab, Policy, Ran, Way, relayed_or_aborted, wait_until,
};
use crate::reload::reloaded;

const PROXY: &str = "https://localhost:3129";

/// The extensions of a valid client certificate.
const FOR_CLIENTS: &str = "extendedKeyUsage=clientAuth\nsubjectAltName=";

/// The gate's files, and the CA of its clients.
struct Tls {
    dir: PathBuf,
    authority: Authority,
}

impl Tls {
    fn new(dir: &Path) -> Self {
        let authority = Authority::new(&dir.join("authority"), "clients");
        let tls = Self { dir: dir.to_owned(), authority };
        tls.renew("gate");
        fs::write(tls.dir.join("clients.crl"), tls.authority.revocations()).unwrap();
        tls
    }

    /// Replaces the gate's certificate.
    fn renew(&self, name: &str) {
        let extensions = "extendedKeyUsage=serverAuth\nsubjectAltName=DNS:localhost";
        let made = self.authority.issue(name, extensions);
        fs::copy(made.key, self.dir.join("gate.key")).unwrap();
        fs::copy(made.certificate, self.dir.join("gate.pem")).unwrap();
    }

    fn listener(&self, clients: &str) -> String {
        let at = self.dir.display();
        format!(
            "[[listen]]\nmode = \"connect\"\naddress = \"127.0.0.1:3129\"\n\
             tls = {{ certificate = \"{at}/gate.pem\", key = \"{at}/gate.key\"{clients} }}\n"
        )
    }

    fn asks_for_certificates(&self) -> String {
        let at = self.dir.display();
        let authority = self.authority.pem();
        self.listener(&format!(
            ", client-ca = \"{}\", client-crls = \"{at}/clients.crl\"",
            authority.display()
        ))
    }

    /// Runs curl through the TLS port, with or without a certificate.
    fn curl(&self, lab: &Lab, url: &str, certificate: Option<&Certificate>) -> Ran {
        let authority = self.authority.pem();
        let mut line = format!(
            "curl -sSv -o /dev/null --proxy {PROXY} --proxy-cacert {}",
            authority.display()
        );
        if let Some(Certificate { certificate, key }) = certificate {
            line +=
                &format!(" --proxy-cert {} --proxy-key {}", certificate.display(), key.display());
        }
        lab.sh(Way::Direct, &format!("{line} {url}"))
    }
}

fn file(label: &str, clients: &str) -> String {
    format!(
        "login-server = \"{label}.azurecr.io\"\n\
         data-endpoints = [\"{label}.eastus.data.azurecr.io\"]\nclients = {clients}\n"
    )
}

/// Agents can use contoso, the fleet fabrikam.
fn policy(listener: &str) -> Policy {
    let clients = "
[[client]]
name = \"build-agents\"
certificate-names = [\"agent-1.ci.contoso.com\", \"spiffe://contoso.com/agents/*\"]
[[client]]
name = \"iot-fleet\"
certificate-names = [\"*.fleet.contoso.com\"]
";
    Policy::of(&[])
        .with_file("contoso.toml", &file("contoso", "[\"build-agents\"]"))
        .with_file("fabrikam.toml", &file("fabrikam", "[\"iot-fleet\"]"))
        .with_more(&format!("{listener}{clients}"))
}

const CONTOSO: &str = "https://contoso.azurecr.io/v2/";

#[test]
fn tls_on_the_proxys_port_and_its_certificate_is_renewed() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let image = lab.push("contoso.azurecr.io/app:1", 1, &[4 << 20, 2000]);
    let tls = Tls::new(&lab.dir().join("tls"));
    let gate = lab.gate(&Policy::of(&["contoso"]).with_more(&tls.listener("")));
    let hello = |version: &str| {
        let authority = tls.authority.pem();
        let line = format!(
            "openssl s_client -connect 127.0.0.1:3129 -servername localhost -{version} \
             -cipher DEFAULT@SECLEVEL=0 -verify_return_error -CAfile {}",
            authority.display()
        );
        lab.sh(Way::Direct, &line)
    };
    for (number, (version, named)) in
        [("tls1_2", "TLSv1.2"), ("tls1_3", "TLSv1.3")].iter().enumerate()
    {
        let ran = hello(version).succeeded();
        assert!(ran.text.contains(named), "{}", ran.text);
        wait_until("it is written down", || {
            let aborted = |line: &Value| line["reason"] == "client-aborted";
            (gate.audit().iter().filter(|line| aborted(line)).count() > number).then_some(())
        });
    }
    hello("tls1_1").failed();
    gate.audited(&[("reason", "proxy-tls")]);
    let before = gate.audit_of_all().len();
    let authority = fs::read_to_string(tls.authority.pem()).unwrap();
    let to = lab.dir().join("pulled");
    let mut skopeo = lab.command(
        Way::Direct,
        &["skopeo", "copy", "docker://contoso.azurecr.io/app:1", &format!("dir:{}", to.display())],
    );
    let known = lab.dir().join("known.pem");
    fs::write(&known, format!("{}{authority}", fs::read_to_string(lab.authority()).unwrap()))
        .unwrap();
    skopeo.env("SSL_CERT_FILE", &known).env("HTTPS_PROXY", PROXY);
    let ran = skopeo.output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    for (digest, size) in &image.layers {
        let layer = fs::read(to.join(&digest[7..])).unwrap();
        assert_eq!(layer.len(), *size);
    }
    let lines = gate.audit_of_all();
    let lines = &lines[before..];
    assert!(lines.len() > 3 && lines.iter().all(relayed_or_aborted), "{lines:?}");
    assert!(lines.iter().all(|line| line["ms"]["tls"].as_f64().unwrap() > 0.0), "{lines:?}");

    // A client that uses plain HTTP receives an explanation.
    let ran = lab.sh(Way::Direct, &format!("curl -sv --proxy http://localhost:3129 {CONTOSO}"));
    assert!(ran.text.contains("this port speaks TLS"), "{}", ran.text);
    gate.audited(&[("reason", "proxy-tls")]);

    let serial = |gate: &str| {
        let line = format!("openssl s_client -connect {gate} -servername localhost");
        let shown = lab.sh(Way::Direct, &line).text;
        shown.lines().skip_while(|line| !line.contains("BEGIN CERT")).take(8).collect::<String>()
    };
    let before = serial("127.0.0.1:3129");
    reloaded(&gate, || tls.renew("renewed"));
    let after = serial("127.0.0.1:3129");
    assert!(before.len() > 100 && before != after, "the new certificate is served");
    // A certificate that does not match its key changes nothing.
    crate::reload::kept(&gate, || fs::write(tls.dir.join("gate.key"), "no key").unwrap());
    assert_eq!(serial("127.0.0.1:3129"), after);
}

#[test]
fn every_bad_certificate_is_refused_with_its_reason() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let dir = lab.dir().join("tls");
    let tls = Tls::new(&dir);
    let ours = &tls.authority;
    let agent = "DNS:agent-1.ci.contoso.com";
    let for_agent = format!("{FOR_CLIENTS}{agent}");
    let good = ours.issue("good", &for_agent);
    let revoked = ours.issue("revoked", &for_agent);
    ours.revoke(&revoked);
    let lower = ours.below(&dir.join("lower"), "lower");
    fs::write(dir.join("clients.crl"), ours.revocations()).unwrap();
    let strangers = Authority::new(&dir.join("strangers"), "strangers");
    let namesake = Authority::new(&dir.join("namesake"), "clients");
    let usurper = Authority::of_leaf(&dir.join("usurper"), &good);
    let gate = lab.gate(&policy(&tls.asks_for_certificates()));

    let past = ("20200101000000Z", "20200201000000Z");
    let future = ("20450101000000Z", "20450201000000Z");
    let (rejected, not_allowed) = ("certificate-rejected", "client-not-allowed");
    // The fault, the certificate, the reason, and the text in the audit.
    let bad: Vec<(&str, Option<Certificate>, &str, &str)> =
        vec![
            ("none", None, rejected, "none was sent"),
            ("expired", Some(ours.issue_between("expired", &for_agent, past)), rejected, "expired"),
            (
                "not yet valid",
                Some(ours.issue_between("early", &for_agent, future)),
                rejected,
                "not valid yet",
            ),
            (
                "wrong authority",
                Some(strangers.issue("stranger", &for_agent)),
                rejected,
                "its authority is unknown",
            ),
            (
                "an authority of the same name",
                Some(namesake.issue("namesake", &for_agent)),
                rejected,
                "",
            ),
            (
                "signed by itself",
                Some(Authority::new(&dir.join("self"), "self").as_certificate()),
                rejected,
                "",
            ),
            (
                "for servers",
                Some(ours.issue(
                    "server",
                    &format!("extendedKeyUsage=serverAuth\nsubjectAltName={agent}"),
                )),
                rejected,
                "clientAuth",
            ),
            ("revoked", Some(revoked), rejected, "revoked"),
            (
                "of a leaf",
                Some(usurper.issue("usurped", &for_agent).with(&good.certificate)),
                rejected,
                "",
            ),
            (
                "no list covers its authority",
                Some(lower.issue("lower-leaf", &for_agent).with(&lower.pem())),
                rejected,
                "no revocation list",
            ),
            (
                "a link is missing",
                Some(lower.issue("unlinked", &for_agent)),
                rejected,
                "its authority is unknown",
            ),
            (
                "a common name alone",
                Some(ours.issue("agent-1.ci.contoso.com", "extendedKeyUsage=clientAuth")),
                not_allowed,
                "no DNS or URI name",
            ),
            (
                "another DNS name",
                Some(ours.issue("other", &format!("{FOR_CLIENTS}DNS:agent-9.ci.contoso.com"))),
                not_allowed,
                "agent-9",
            ),
            (
                "another URI",
                Some(ours.issue("uri", &format!("{FOR_CLIENTS}URI:spiffe://contoso.com/others/1"))),
                not_allowed,
                "others/1",
            ),
            (
                "a URI that climbs",
                Some(ours.issue(
                    "climber",
                    &format!("{FOR_CLIENTS}URI:spiffe://contoso.com/agents/../x"),
                )),
                not_allowed,
                "agents/../x",
            ),
            (
                "a wildcard",
                Some(ours.issue("wildcard", &format!("{FOR_CLIENTS}DNS:*.ci.contoso.com"))),
                not_allowed,
                "no DNS or URI name",
            ),
            (
                "an address and a mailbox",
                Some(ours.issue(
                    "address",
                    &format!("{FOR_CLIENTS}IP:127.0.0.1,email:agent-1@ci.contoso.com"),
                )),
                not_allowed,
                "no DNS or URI name",
            ),
            (
                "another group's",
                Some(ours.issue("device", &format!("{FOR_CLIENTS}DNS:device-7.fleet.contoso.com"))),
                not_allowed,
                "device-7",
            ),
        ];
    assert!(bad.len() >= 12);
    for (number, (what, certificate, reason, says)) in bad.iter().enumerate() {
        let before = gate.audit().len();
        // Each from a different address: repeated denials would be deduplicated.
        let url = format!("--interface 127.0.10.{number} {CONTOSO}");
        let ran = tls.curl(&lab, &url, certificate.as_ref()).failed();
        let line =
            wait_until(&format!("{what} is in the audit"), || gate.audit().into_iter().nth(before));
        assert_eq!(line["outcome"], "denied", "{what}: {line}\n{}", ran.text);
        assert_eq!(line["reason"], *reason, "{what}: {line}");
        let facts = line["facts"].to_string();
        assert!(facts.contains(says), "{what}: {facts}");
        assert_eq!(line["bytes-up"], 0, "{what}: {line}");
        match *reason {
            "client-not-allowed" => assert!(ran.text.contains("403 pullgate: "), "{}", ran.text),
            _ => assert!(ran.text.contains("alert"), "{what}: an alert says why: {}", ran.text),
        }
    }
    assert_eq!(lab.asked("contoso.azurecr.io"), "", "nothing reached the registry");

    // Valid certificates pass, by DNS name and by URI, with curl and with skopeo.
    tls.curl(&lab, CONTOSO, Some(&good)).succeeded();
    let uri = ours.issue("spiffe", &format!("{FOR_CLIENTS}URI:spiffe://contoso.com/agents/7"));
    tls.curl(&lab, CONTOSO, Some(&uri)).succeeded();
    for line in gate.audit().iter().filter(|line| line["outcome"] == "relayed") {
        assert_eq!(line["client-name"], "build-agents", "{line}");
    }
    let device = bad.last().unwrap().1.as_ref();
    tls.curl(&lab, "https://fabrikam.azurecr.io/v2/", device).succeeded();
    gate.audited(&[("client-name", "iot-fleet"), ("outcome", "relayed")]);
}

#[test]
fn skopeo_proves_itself_by_a_certificate() {
    let lab = Lab::new(Blobs::DataEndpoint);
    lab.push("contoso.azurecr.io/app:1", 1, &[1 << 20]);
    let tls = Tls::new(&lab.dir().join("tls"));
    let agent = tls.authority.issue("agent", &format!("{FOR_CLIENTS}DNS:agent-1.ci.contoso.com"));
    let gate = lab.gate(&policy(&tls.asks_for_certificates()));
    // Go uses the same certificate and CAs for the registry and for the proxy.
    let certificates = lab.dir().join("certs.d");
    fs::create_dir_all(&certificates).unwrap();
    let both = [lab.authority().to_owned(), tls.authority.pem()]
        .map(|path| fs::read_to_string(path).unwrap());
    fs::write(certificates.join("ca.crt"), both.concat()).unwrap();
    fs::copy(&agent.certificate, certificates.join("client.cert")).unwrap();
    fs::copy(&agent.key, certificates.join("client.key")).unwrap();
    let to = lab.dir().join("pulled");
    let line = format!(
        "skopeo copy --src-cert-dir {} docker://contoso.azurecr.io/app:1 dir:{}",
        certificates.display(),
        to.display()
    );
    let words: Vec<&str> = line.split(' ').collect();
    let ran = lab.command(Way::Direct, &words).env("HTTPS_PROXY", PROXY).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let lines = gate.audit_of_all();
    assert!(lines.len() > 3);
    assert!(lines.iter().all(|line| line["client-name"] == "build-agents"), "{lines:?}");
}

/// Streams a layer through the TLS port until it ends or is closed.
fn streaming(lab: &Lab, gate: &Gate, tls: &Tls, agent: &Certificate) -> std::process::Child {
    let large = lab.served("contoso").join("layer");
    fs::File::create(large).unwrap().set_len(1 << 30).unwrap();
    let line = format!(
        "curl -sS --limit-rate 24M -o /dev/null --proxy {PROXY} --proxy-cacert {} --proxy-cert {} \
         --proxy-key {} https://contoso.eastus.data.azurecr.io/layer",
        tls.authority.pem().display(),
        agent.certificate.display(),
        agent.key.display()
    );
    let words: Vec<&str> = line.split_whitespace().collect();
    let pull = lab.command(Way::Direct, &words).spawn().unwrap();
    wait_until("the layer streams", || {
        let labels = ["client=\"build-agents\"", "direction=\"down\""];
        (gate.metric("pullgate_client_relayed_bytes_total", &labels) > 1e6).then_some(())
    });
    pull
}

#[test]
pub fn a_list_that_revokes_a_certificate_ends_its_tunnels() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let tls = Tls::new(&lab.dir().join("tls"));
    let for_agent = format!("{FOR_CLIENTS}DNS:agent-1.ci.contoso.com");
    let (agent, other) =
        (tls.authority.issue("agent", &for_agent), tls.authority.issue("other", &for_agent));
    let gate = lab.gate(&policy(&tls.asks_for_certificates()));
    let mut pull = streaming(&lab, &gate, &tls, &agent);
    let renew = || fs::write(tls.dir.join("clients.crl"), tls.authority.revocations()).unwrap();
    tls.authority.revoke(&other);
    reloaded(&gate, renew);
    assert!(pull.try_wait().unwrap().is_none(), "another's revocation does it no harm");
    tls.authority.revoke(&agent);
    reloaded(&gate, renew);
    assert!(!wait_until("the pull ends", || pull.try_wait().unwrap()).success());
    gate.audited(&[("reason", "policy-revoked"), ("client-name", "build-agents")]);
    tls.curl(&lab, CONTOSO, Some(&agent)).failed();
    gate.audited(&[("reason", "certificate-rejected")]);
}

#[test]
fn a_certificate_that_expires_ends_its_tunnels() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let tls = Tls::new(&lab.dir().join("tls"));
    let gate = lab.gate(&policy(&tls.asks_for_certificates()));
    let for_agent = format!("{FOR_CLIENTS}DNS:agent-1.ci.contoso.com");
    let date = lab.sh(Way::Direct, "date -u -d +10seconds +%Y%m%d%H%M%SZ").succeeded();
    let end = date.stdout().trim().to_owned();
    let times = ("20240101000000Z", end.as_str());
    let agent = tls.authority.issue_between("agent", &for_agent, times);
    let mut pull = streaming(&lab, &gate, &tls, &agent);
    assert!(!wait_until("the pull ends", || pull.try_wait().unwrap()).success());
    gate.audited(&[("reason", "policy-revoked"), ("client-name", "build-agents")]);
    tls.curl(&lab, CONTOSO, Some(&agent)).failed();
    gate.audited(&[("reason", "certificate-rejected")]);
}
