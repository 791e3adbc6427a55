//! Further clients of the mirror, and further registries: dockerd and BuildKit, clients with
//! certificates, registries without a token server.

use std::fs;
use std::path::Path;

use crate::harness::{
    Authority, Blobs, Daemon, Docker, Gate, Image, Lab, Policy, Way, address, bound_to_this_thread,
    wait_until,
};
use crate::mirror::{CLEAR, MIRROR, curl, file, policy};
use crate::reload::reloaded;

/// Pulls with docker by the gate's name and as from Docker Hub, and builds with BuildKit on both.
fn pull_with_docker(lab: &Lab, gate: &Gate, way: Way, image: &Image) {
    let around = [("NO_PROXY", "gate.example.com")];
    let docker = Docker::start(lab, way, &format!("https://{MIRROR}"), &around);
    let by_name = format!("{MIRROR}/contoso.azurecr.io/team/app:v1");
    for reference in [by_name.as_str(), "team/app:v1"] {
        docker.run(&format!("pull --quiet {reference}")).succeeded();
        for (name, content) in &image.files {
            assert!(docker.file(reference, name) == *content, "{reference}: {name} differs");
        }
        docker.run(&format!("rmi --force {reference}")).succeeded();
    }
    // BuildKit has a cache of its own, and asks anew for each name.
    let context = lab.dir().join("context");
    fs::create_dir_all(&context).unwrap();
    fs::write(context.join("added"), "added").unwrap();
    for (number, reference) in [by_name.as_str(), "team/app:v1"].into_iter().enumerate() {
        fs::write(context.join("Dockerfile"), format!("FROM {reference}\nCOPY added /\n")).unwrap();
        // The daemon keeps its connections: their sessions go on.
        let before = gate.metric("pullgate_requests_total", &[]);
        let built = format!("built-{number}");
        docker.run(&format!("build --tag {built} {}", context.display())).succeeded();
        for (name, content) in &image.files {
            assert!(docker.file(&built, name) == *content, "{reference}: {name} differs");
        }
        let after = gate.metric("pullgate_requests_total", &[]);
        assert!(after > before, "{reference} was not asked for at the gate");
    }
    // What is refused says why.
    let refused = docker.run(&format!("pull {MIRROR}/contoso.azurecr.io/secret/app:v1")).failed();
    println!("docker pull by name: {}", refused.text);
    assert!(refused.text.contains("repository-not-allowed"), "{}", refused.text);
    let refused = docker.run("pull secret/app:v1").failed();
    println!("docker pull of Docker Hub: {}", refused.text);
    assert!(docker.log().contains("repository-not-allowed"), "{}", docker.log());
    let from = format!("FROM {MIRROR}/contoso.azurecr.io/secret/app:v1\n");
    fs::write(context.join("Dockerfile"), from).unwrap();
    let refused = docker.run(&format!("build {}", context.display())).failed();
    println!("docker build: {}", refused.text);
    assert!(refused.text.contains("repository-not-allowed"), "{}", refused.text);
}

// What is pulled is the same; how its layers come differs.
fn docker_pulls(tunnel: &str, blobs: &str) {
    let lab = Lab::new(Blobs::DataEndpoint);
    let image = lab.push("contoso.azurecr.io/team/app:v1", 1, &[4 << 20, 1 << 20, 2000]);
    let rules = "names = [\"docker.io\"]\ndefault = true\nrepositories = [\"team/**\"]";
    let policy =
        policy(&lab, &format!("tunnel = \"{tunnel}\""), &format!("{rules}\nblobs = \"{blobs}\""));
    let gate = lab.gate(&policy);
    let way = if blobs == "relay" { Way::Direct } else { Way::Through(&gate) };
    pull_with_docker(&lab, &gate, way, &image);
    // Twice by docker, and once by BuildKit, which recognises layers under another name.
    let (path, labels) = match blobs {
        "relay" => ("copy", "endpoint=\"login\""),
        _ => ("splice", "endpoint=\"data\""),
    };
    let path = format!("path=\"{path}\"");
    let labels = [path.as_str(), labels, "direction=\"down\""];
    let moved = gate.metric("pullgate_relayed_bytes_total", &labels);
    println!("{moved} bytes {labels:?}, of {}", image.size());
    assert!(moved > 2.9 * image.size() as f64, "{moved} bytes {labels:?}");
}

#[test]
fn docker_and_buildkit_pull_by_relay() {
    docker_pulls("none", "relay");
}

#[test]
fn docker_and_buildkit_pull_by_redirect() {
    docker_pulls("data", "redirect");
}

/// `doctor` shows whether a client can reach the registry without the mirror.
#[test]
fn the_doctor_proves_that_nothing_leads_past_the_mirror() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let gate = lab.gate(&policy(&lab, "tunnel = \"none\"", "blobs = \"relay\""));
    let doctor = || {
        let line = format!(
            "{} doctor --mirror {MIRROR} --registry contoso.azurecr.io --proxy {} \
             --outside 127.0.3.1 --ports 9 --metadata 127.0.3.2 --timeout-ms 2000",
            env!("CARGO_BIN_EXE_pullgate"),
            gate.proxy()
        );
        lab.sh(Way::Direct, &line)
    };
    let past = "the registry contoso.azurecr.io:443 past the mirror";
    let said = doctor().failed().text;
    for line in [
        format!("OPEN    {past}, at its address from DNS: 127.0.1.1: a TLS server answers"),
        format!("closed  {past}, at 127.0.3.1:443"),
        format!("closed  {past}, through http://127.0.0.1:3128: 403 pullgate: "),
        format!("works   the mirror {MIRROR}: 127.0.0.1: a TLS server answers"),
    ] {
        assert!(said.contains(&line), "{line}\n{said}");
    }
    let rules = lab.dir().join("rules.nft");
    let drop = "ip daddr 127.0.1.1 tcp dport 443 drop";
    let chain = format!("type filter hook output priority 0; {drop}");
    fs::write(&rules, format!("table ip closed {{ chain out {{ {chain}\n}}\n}}\n")).unwrap();
    lab.sh(Way::Direct, &format!("nft -f {}", rules.display())).succeeded();
    let said = doctor().succeeded().text;
    let closed = format!("closed  {past}, at its address from DNS: 127.0.1.1: no answer");
    assert!(said.contains(&closed), "{said}");
}

/// A docker-registry with users of its own and no token server, at the gate's name elsewhere.
fn basic_registry(lab: &Lab, users: &str) -> Daemon {
    let at = lab.dir().join("basic");
    fs::create_dir_all(&at).unwrap();
    fs::write(at.join("users"), users).unwrap();
    let (certificate, key) = lab.server_certificate();
    let config = format!(
        "version: 0.1\nstorage: {{ filesystem: {{ rootdirectory: {at}/data }} }}\n\
         auth: {{ htpasswd: {{ realm: corp, path: {at}/users }} }}\n\
         http:\n  addr: 127.0.1.9:443\n  secret: not-one\n  \
         tls: {{ certificate: {certificate}, key: {key} }}\n",
        at = at.display(),
        certificate = certificate.display(),
        key = key.display(),
    );
    fs::write(at.join("config.yml"), config).unwrap();
    let mut command = bound_to_this_thread("docker-registry");
    command.arg("serve").arg(at.join("config.yml")).env_clear();
    Daemon::start("basic", lab.dir(), &mut command, None).accepts(address("127.0.1.9:443"))
}

#[test]
fn a_registry_without_a_token_server_gets_user_and_password() {
    // hunter-2-hunter-2
    const USERS: &str = "ci:$2b$05$abcdefghijklmnopqrstuuLtEr9PSEWh4EUx32QssIkrBax4UKXum\n";
    let lab = Lab::new(Blobs::DataEndpoint);
    let registry = basic_registry(&lab, USERS);
    let image = Image::random(lab.dir(), 1, &[1 << 20, 2000]);
    let push = format!(
        "skopeo copy --preserve-digests --dest-tls-verify=false \
         --dest-creds ci:hunter-2-hunter-2 oci:{}:latest docker://127.0.1.9:443/team/app:v1",
        image.layout.display()
    );
    lab.sh(Way::Direct, &push).succeeded();
    let secret = |text: &str| write_secret(&lab.dir().join("gate/registries.d"), text);
    secret("ci:hunter-2-hunter-2\n");
    let of = |more: &str| {
        format!(
            "login-server = \"gate.example.com\"\nca = \"{}\"\nclients = \"everyone\"\n\
             [mirror]\nblobs = \"relay\"\ndefault = true\n{more}\n",
            lab.authority().display()
        )
    };
    let policy = Policy::of(&[])
        .with_file("corp.toml", &of("credentials-file = \"corp.secret\""))
        .with_dns("[dns.hosts]\n\"gate.example.com\" = [\"127.0.1.9\"]\n")
        .with_more(&format!("[[listen]]\nmode = \"mirror\"\naddress = \"{CLEAR}\"\n"));
    let gate = lab.gate(&policy);
    let to = lab.dir().join("pulled");
    let pull = format!("skopeo copy --src-tls-verify=false docker://{CLEAR}/team/app:v1 dir:");
    lab.sh(Way::Direct, &format!("{pull}{}", to.display())).succeeded();
    for (digest, _) in &image.layers {
        let (_, hex) = digest.split_once(':').unwrap();
        assert!(fs::read(to.join(hex)).unwrap() == image.blob(digest), "{digest} differs");
    }
    // The first request was refused and asked again; then the gate knew what to send.
    let log = registry.log();
    let is_challenge =
        |line: &&str| line.contains("error authorizing context") && line.contains("/team/app");
    let unauthorized = log.lines().filter(is_challenge);
    assert_eq!(unauthorized.count(), 1, "{log}");

    // Wrong or missing credentials are the gate's trouble. No client is asked for the registry's.
    let manifest = format!("http://{CLEAR}/v2/team/app/manifests/v1");
    reloaded(&gate, || secret("ci:wrong\n"));
    let refused = curl(&lab, &format!("-i {manifest}")).text;
    assert!(refused.starts_with("HTTP/1.1 502") && refused.contains("upstream-auth"), "{refused}");
    assert!(refused.contains("does not let the gate's credentials pull"), "{refused}");
    let config = gate.registries().join("corp.toml");
    reloaded(&gate, || fs::write(&config, of("")).unwrap());
    let refused = curl(&lab, &format!("-i {manifest}")).text;
    assert!(refused.starts_with("HTTP/1.1 502") && refused.contains("upstream-auth"), "{refused}");
    assert!(refused.contains("wants a user and a password"), "{refused}");
    assert!(!refused.to_lowercase().contains("www-authenticate"), "{refused}");
    let said = [fs::read_to_string(gate.audit_file()).unwrap(), gate.log()].concat();
    assert!(!said.contains("hunter"), "a secret was logged");
}

/// Writes the secret of a registry, for its owner alone.
fn write_secret(folder: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::create_dir_all(folder).unwrap();
    let file = folder.join("corp.secret");
    fs::write(&file, text).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn a_client_is_known_by_its_certificate_until_that_is_revoked() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let image = lab.push("contoso.azurecr.io/team/app:v1", 1, &[48 << 20]);
    let authority = Authority::new(&lab.dir().join("authority"), "clients");
    let revocations = lab.dir().join("clients.crl");
    fs::write(&revocations, authority.revocations()).unwrap();
    let agent = "extendedKeyUsage=clientAuth\nsubjectAltName=DNS:agent-1.ci.contoso.com";
    let agent = authority.issue("agent", agent);
    let (certificate, key) = lab.server_certificate();
    let listener = format!(
        "[[listen]]\nmode = \"mirror\"\naddress = \"127.0.0.1:5443\"\n\
         tls = {{ certificate = \"{}\", key = \"{}\", client-ca = \"{}\", client-crls = \"{}\" }}\n\
         [[client]]\nname = \"build-agents\"\ncertificate-names = [\"agent-1.ci.contoso.com\"]\n",
        certificate.display(),
        key.display(),
        authority.pem().display(),
        revocations.display()
    );
    let file = file(&lab, "clients = [\"build-agents\"]", "blobs = \"relay\"");
    let gate = lab.gate(&Policy::of(&[]).with_file("contoso.toml", &file).with_more(&listener));
    let proof = format!("--cert {} --key {}", agent.certificate.display(), agent.key.display());

    let manifest = format!("https://{MIRROR}/v2/contoso.azurecr.io/team/app/manifests/v1");
    curl(&lab, &format!("-f -o /dev/null {proof} {manifest}")).succeeded();
    let line = gate.audited(&[("kind", "request"), ("outcome", "relayed")]);
    assert_eq!(line["client-name"], "build-agents");
    curl(&lab, &manifest).failed();
    gate.audited(&[("reason", "certificate-rejected")]);
    // A client that speaks HTTP learns what this port speaks.
    let clear = curl(&lab, &format!("-i http://{MIRROR}/v2/"));
    assert!(clear.text.contains("this port speaks TLS"), "{}", clear.text);

    let (digest, _) = &image.layers[0];
    let to = lab.dir().join("blob");
    let blob = format!("https://{MIRROR}/v2/contoso.azurecr.io/team/app/blobs/{digest}");
    let line = format!("curl -sS --limit-rate 1M -o {} {proof} {blob}", to.display());
    let line: Vec<&str> = line.split_whitespace().collect();
    let mut pull = lab.command(Way::Direct, &line).spawn().unwrap();
    wait_until("the blob streams", || {
        fs::metadata(&to).is_ok_and(|file| file.len() > 1 << 18).then_some(())
    });
    authority.revoke(&agent);
    reloaded(&gate, || fs::write(&revocations, authority.revocations()).unwrap());
    assert!(!wait_until("the pull ends", || pull.try_wait().unwrap()).success());
    gate.audited(&[("reason", "policy-revoked"), ("client-name", "build-agents")]);
}
