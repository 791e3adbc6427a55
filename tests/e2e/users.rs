//! Users and passwords: requested only where they help, checked without blocking, and never logged.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use socket2::{Domain, Socket, Type};

use crate::harness::{Authority, Blobs, Gate, Lab, Policy, Way, wait_until};
use crate::reload::reloaded;

const SECRET: &str = "hunter-2-hunter-2";
const CONTOSO: &str = "https://contoso.azurecr.io/v2/";

/// `pullgate user add`.
pub fn add_user(file: &Path, name: &str, password: &str) {
    let program = env!("CARGO_BIN_EXE_pullgate");
    let mut command = Command::new(program);
    command.args(["user", "add", name, "--file"]).arg(file);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    writeln!(child.stdin.take().unwrap(), "{password}").unwrap();
    assert!(child.wait().unwrap().success());
}

fn file(label: &str, clients: &str) -> String {
    format!(
        "login-server = \"{label}.azurecr.io\"\n\
         data-endpoints = [\"{label}.eastus.data.azurecr.io\"]\nclients = {clients}\n"
    )
}

/// `ci` can use contoso, `bot` fabrikam; both have the same password.
fn policy(lab: &Lab, more: &str) -> Policy {
    fs::create_dir_all(lab.dir().join("gate")).unwrap();
    let users = lab.dir().join("gate/users");
    add_user(&users, "ci", SECRET);
    add_user(&users, "bot", SECRET);
    let clients = "[[client]]\nname = \"build-agents\"\nusers = [\"ci\"]\n\
                   [[client]]\nname = \"bots\"\nusers = [\"bot\"]\nnetworks = [\"127.0.0.0/8\"]\n";
    Policy::of(&[])
        .with_file("contoso.toml", &file("contoso", "[\"build-agents\"]"))
        .with_file("fabrikam.toml", &file("fabrikam", "[\"bots\"]"))
        .with_more(&format!("{more}{clients}"))
}

fn with_password(user: &str, password: &str) -> String {
    format!("http://{user}:{password}@127.0.0.1:3128")
}

/// Returns the answer to the CONNECT as curl shows it.
fn curl(lab: &Lab, proxy: &str, url: &str) -> crate::harness::Ran {
    lab.sh(Way::Direct, &format!("curl -sv -o /dev/null --proxy {proxy} {url}"))
}

#[track_caller]
fn assert_kept_secret(gate: &Gate) {
    let (_, metrics) = gate.admin("/metrics");
    let (_, policy) = gate.admin("/policy");
    let (_, sessions) = gate.admin("/sessions");
    let audit = fs::read_to_string(gate.audit_file()).unwrap();
    for output in [gate.log(), metrics, policy, sessions, audit] {
        for secret in [SECRET, "aHVudGVy", "$argon2", "no-such-user", "wrong-word"] {
            assert!(!output.contains(secret), "{secret} in {output}");
        }
    }
}

#[test]
pub fn a_password_opens_what_its_user_may_use() {
    let lab = Lab::new(Blobs::DataEndpoint);
    lab.push("contoso.azurecr.io/app:1", 1, &[1 << 20]);
    let gate = lab.gate(&policy(&lab, ""));
    // Without a password, and with a wrong one: 407, always with a challenge.
    for proxy in [
        "http://127.0.0.1:3128".to_owned(),
        with_password("ci", "wrong-word"),
        with_password("no-such-user", SECRET),
    ] {
        let ran = curl(&lab, &proxy, CONTOSO).failed();
        assert!(ran.text.contains("407 pullgate: contoso.azurecr.io needs proxy credentials"));
        assert!(
            ran.text.contains("< proxy-authenticate: Basic realm=\"pullgate\""),
            "{}",
            ran.text
        );
    }
    // An unrequested password does not help for a host outside the policy.
    let ran = curl(&lab, &with_password("ci", SECRET), "https://example.com/").failed();
    assert!(ran.text.contains("host-not-allowed"), "{}", ran.text);

    curl(&lab, &with_password("ci", SECRET), CONTOSO).succeeded();
    // A client that sends the password only after a challenge.
    let asks = format!("--proxy-anyauth {CONTOSO}");
    curl(&lab, &with_password("ci", SECRET), &asks).succeeded();
    curl(&lab, &with_password("bot", SECRET), "https://fabrikam.azurecr.io/v2/").succeeded();
    let ran = curl(&lab, &with_password("bot", SECRET), CONTOSO).failed();
    assert!(ran.text.contains("; bots may not use it [client-not-allowed"), "{}", ran.text);

    // skopeo sends it immediately for every tunnel.
    let to = lab.dir().join("pulled");
    let line = format!("skopeo copy docker://contoso.azurecr.io/app:1 dir:{}", to.display());
    let words: Vec<&str> = line.split(' ').collect();
    let mut skopeo = lab.command(Way::Direct, &words);
    let ran = skopeo.env("HTTPS_PROXY", with_password("ci", SECRET)).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let mut skopeo = lab.command(Way::Direct, &words);
    let ran = skopeo.env("HTTPS_PROXY", with_password("ci", "wrong-word")).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(said.contains("needs proxy credentials; user or password is wrong"), "{said}");

    let line = gate.audited(&[("outcome", "relayed"), ("client-name", "build-agents")]);
    assert_eq!(line["facts"]["user"], "ci", "{line}");
    assert_kept_secret(&gate);
}

#[test]
fn a_password_goes_by_tls() {
    let lab = Lab::new(Blobs::DataEndpoint);
    lab.push("contoso.azurecr.io/app:1", 1, &[1 << 20]);
    let authority = Authority::new(&lab.dir().join("authority"), "gates");
    let own = authority.issue("gate", "extendedKeyUsage=serverAuth\nsubjectAltName=DNS:localhost");
    let listener = format!(
        "[[listen]]\nmode = \"connect\"\naddress = \"127.0.0.1:3129\"\n\
         tls = {{ certificate = \"{}\", key = \"{}\" }}\n",
        own.certificate.display(),
        own.key.display()
    );
    let gate = lab.gate(&policy(&lab, &listener));
    let proxy = format!("https://ci:{SECRET}@localhost:3129");
    let authority_pem = authority.pem();
    let with = format!("--proxy-cacert {} {CONTOSO}", authority_pem.display());
    curl(&lab, &proxy, &with).succeeded();

    let known = lab.dir().join("known.pem");
    let both = [lab.authority(), &authority_pem].map(|path| fs::read_to_string(path).unwrap());
    fs::write(&known, both.concat()).unwrap();
    let to = lab.dir().join("pulled");
    let line = format!("skopeo copy docker://contoso.azurecr.io/app:1 dir:{}", to.display());
    let words: Vec<&str> = line.split(' ').collect();
    let mut skopeo = lab.command(Way::Direct, &words);
    let ran = skopeo.env("HTTPS_PROXY", proxy).env("SSL_CERT_FILE", known).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let lines = gate.audit_of_all();
    assert!(lines.iter().all(|line| line["client-name"] == "build-agents"), "{lines:?}");
    assert_kept_secret(&gate);
}

#[test]
pub fn a_reload_that_drops_a_user_ends_its_tunnels() {
    let lab = Lab::new(Blobs::DataEndpoint);
    for label in ["contoso", "fabrikam"] {
        let layer = lab.served(label).join("layer");
        fs::File::create(layer).unwrap().set_len(1 << 30).unwrap();
    }
    let gate = lab.gate(&policy(&lab, ""));
    let start = |user: &str, label: &str| {
        let line = format!(
            "curl -sS --limit-rate 24M -o /dev/null --proxy {} \
             https://{label}.eastus.data.azurecr.io/layer",
            with_password(user, SECRET)
        );
        let words: Vec<&str> = line.split_whitespace().collect();
        lab.command(Way::Direct, &words).spawn().unwrap()
    };
    let (mut dropped, mut spared) = (start("ci", "contoso"), start("bot", "fabrikam"));
    for client in ["build-agents", "bots"] {
        wait_until("both layers stream", || {
            let labels = [format!("client=\"{client}\""), "direction=\"down\"".to_owned()];
            let labels = labels.each_ref().map(String::as_str);
            (gate.metric("pullgate_client_relayed_bytes_total", &labels) > 1e6).then_some(())
        });
    }
    let users = lab.dir().join("gate/users");
    let config = lab.dir().join("gate/pullgate.toml");
    // No [[client]] may name the removed user either, otherwise the policy has an error.
    crate::reload::kept(&gate, || {
        let program = env!("CARGO_BIN_EXE_pullgate");
        let remove = format!("{program} user remove ci --file {}", users.display());
        lab.sh(Way::Direct, &remove).succeeded();
    });
    assert!(gate.log().contains("\"ci\" is not a user in"), "{}", gate.log());
    reloaded(&gate, || {
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&config, text.replace("users = [\"ci\"]", "users = [\"bot\"]")).unwrap();
    });
    assert!(!wait_until("the pull ends", || dropped.try_wait().unwrap()).success());
    gate.audited(&[("reason", "policy-revoked"), ("client-name", "build-agents")]);
    assert!(spared.try_wait().unwrap().is_none(), "the other user's pull goes on");
    // A changed password must be proved again.
    reloaded(&gate, || add_user(&users, "bot", "another-word"));
    assert!(!wait_until("the other pull ends", || spared.try_wait().unwrap()).success());
    gate.audited(&[("reason", "policy-revoked"), ("client-name", "bots")]);
    curl(&lab, &with_password("ci", SECRET), CONTOSO).failed();
    assert_kept_secret(&gate);
}

/// Sends a CONNECT with a wrong password from one of twenty addresses. Returns the status.
fn guess(number: usize) -> u16 {
    let source = format!("127.1.0.{}:0", number % 20 + 1).parse::<SocketAddr>().unwrap();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&source.into()).unwrap();
    socket.connect(&"127.0.0.1:3128".parse::<SocketAddr>().unwrap().into()).unwrap();
    let word = STANDARD.encode(format!("ci:guess-{number}"));
    let mut gate = TcpStream::from(socket);
    let host = "contoso.azurecr.io:443";
    write!(
        gate,
        "CONNECT {host} HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: Basic {word}\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    gate.read_to_string(&mut answer).unwrap();
    answer[9..12].parse().unwrap()
}

#[test]
fn ten_thousand_wrong_passwords_leave_room_for_a_pull() {
    const GUESSES: usize = 10_000;
    const THREADS: usize = 20;
    let lab = Lab::new(Blobs::DataEndpoint);
    let layer = lab.served("contoso").join("layer");
    fs::File::create(layer).unwrap().set_len(64 << 20).unwrap();
    let gate = lab.gate(&policy(&lab, ""));
    let url = "https://contoso.eastus.data.azurecr.io/layer";
    let began = std::time::Instant::now();
    let (statuses, pulls) = std::thread::scope(|scope| {
        let guessers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let numbers = (thread..GUESSES).step_by(THREADS);
                scope.spawn(|| numbers.map(guess).collect::<Vec<u16>>())
            })
            .collect();
        wait_until("guesses come", || {
            let labels = ["reason=\"credentials-required\""];
            (gate.metric("pullgate_sessions_total", &labels) > 5.0).then_some(())
        });
        // At the same time, clients with the right password pull; the first password check must be
        // scheduled between the guesses.
        let mut pulls = 0;
        while pulls < 5 && guessers.iter().any(|guesser| !guesser.is_finished()) {
            curl(&lab, &with_password("ci", SECRET), url).succeeded();
            pulls += 1;
        }
        let all = guessers.into_iter().flat_map(|guesser| guesser.join().unwrap());
        (all.collect::<Vec<u16>>(), pulls)
    });
    let count = |status: u16| statuses.iter().filter(|one| **one == status).count();
    let (hashed, slowed) = (count(407), count(429));
    println!("407: {hashed}, 429: {slowed}, beside {pulls} pulls of 64 MiB");
    // Only guesses answered with 407 were hashed: ten immediately from each of the twenty
    // addresses, and one every two seconds of the test.
    assert_eq!(hashed + slowed, GUESSES);
    assert!(pulls >= 1 && hashed > 5, "{pulls}");
    let most = 20 * (10 + began.elapsed().as_secs() as usize / 2 + 1);
    assert!(hashed <= most, "{hashed} of {most}");
    assert_kept_secret(&gate);
}

#[test]
fn the_users_file_is_kept_by_the_command() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let users = lab.dir().join("users");
    add_user(&users, "ci", "one");
    add_user(&users, "bot", "two");
    let first = fs::read_to_string(&users).unwrap();
    add_user(&users, "ci", "three");
    let changed = fs::read_to_string(&users).unwrap();
    assert_eq!(changed.lines().count(), 2);
    assert_ne!(first.lines().next(), changed.lines().next());
    assert_eq!(first.lines().nth(1), changed.lines().nth(1));
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&users).unwrap().permissions());
    assert_eq!(mode & 0o007, 0, "others may not read it");
    let program = env!("CARGO_BIN_EXE_pullgate");
    let run = |words: &str| {
        lab.sh(Way::Direct, &format!("{program} user {words} --file {}", users.display()))
    };
    assert_eq!(run("list").succeeded().stdout(), "ci\nbot");
    run("remove ci").succeeded();
    run("remove ci").failed();
    assert_eq!(run("list").succeeded().stdout(), "bot");
    run("add a:b").failed();
    // An empty password is rejected.
    run("add ci").failed();
}

/// Issue 16, point 8: five of six were lost, while each command said "was added".
#[test]
fn users_added_at_once_are_all_kept() {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users");
    let names = ["a", "b", "c", "d", "e", "f"];
    std::thread::scope(|scope| {
        for name in names {
            scope.spawn(|| add_user(&users, name, SECRET));
        }
    });
    let text = fs::read_to_string(&users).unwrap();
    let mut added: Vec<&str> = text.lines().map(|line| line.split(':').next().unwrap()).collect();
    added.sort_unstable();
    assert_eq!(added, names);
}

/// Issue 16, point 13: `println!` panics when the reader of the pipe has gone.
#[test]
fn commands_whose_reader_has_gone_do_not_panic() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    add_user(Path::new(&at("users")), "ci", SECRET);
    fs::create_dir(at("registries.d")).unwrap();
    fs::write(at("registries.d/contoso.toml"), file("contoso", "[\"all\"]")).unwrap();
    let main = "[[listen]]\nmode = \"connect\"\naddress = \"127.0.0.1:3128\"\n\
                [[client]]\nname = \"all\"\nnetworks = [\"0.0.0.0/0\"]\n\
                [policy]\nregistries = \"registries.d\"\n";
    fs::write(at("pullgate.toml"), main).unwrap();
    let (config, users) = (at("pullgate.toml"), at("users"));
    for (line, code) in [
        (vec!["user", "list", "--file", &users], 0),
        (vec!["check", "--config", &config], 0),
        (vec!["explain", "--config", &config, "--json", "fabrikam.azurecr.io"], 1),
        (vec!["explain", "--config", &config, "fabrikam.azurecr.io"], 1),
        (vec!["explain", "--config", &config, "contoso"], 0),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_pullgate"));
        let ran = command.args(&line).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(code), "{line:?}: {said}");
        assert_eq!(said, "", "{line:?}");
    }
}
