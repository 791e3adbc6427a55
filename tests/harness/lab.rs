//! Two registries with their data endpoints, a storage account and the clients' environment.
//!
//! ```text
//! contoso.azurecr.io               127.0.1.1:443   nginx -> docker-registry, tokens
//! contoso.eastus.data.azurecr.io   127.0.1.2:443   nginx, the registry's own directory; PUT to /sync/
//! fabrikam.azurecr.io              127.0.1.3:443   the same
//! fabrikam.eastus.data.azurecr.io  127.0.1.4:443
//! eusmanaged123.blob.core.windows.net 127.0.1.5:443   a tap -> nginx, contoso's directory, PUT
//! ```

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

use super::daemon::{Daemon, bound_to_this_thread, find};
use super::gate::{Gate, GateRoute, Policy, spawn_in};
use super::image::Image;
use super::parents::tinyproxy;
use super::pki::Pki;
use super::site::{self, NO_CAPABILITIES, Place, ROOT};
use super::tap::Tap;
use super::token::{ISSUER, TokenService};
use super::wait_until;

/// User and password with push permission.
pub const PUSHER: &str = "pusher:secret";

/// Every name with its address.
pub const HOSTS: [(&str, &str); 5] = [
    ("contoso.azurecr.io", "127.0.1.1"),
    ("contoso.eastus.data.azurecr.io", "127.0.1.2"),
    ("fabrikam.azurecr.io", "127.0.1.3"),
    ("fabrikam.eastus.data.azurecr.io", "127.0.1.4"),
    ("eusmanaged123.blob.core.windows.net", "127.0.1.5"),
];

/// What clients of a mirror call the gate, on loopback.
pub const GATE: &str = "gate.example.com";

/// What clients below a gateway of nested IoT Edge call contoso's login server.
pub const EDGE_PARENT: &str = "edge-parent";

/// The address of a registry for clients behind the gateway.
pub fn outside(number: usize) -> [String; 2] {
    let last = 11 + number;
    [format!("198.51.100.{last}"), format!("2001:db8::{last}")]
}

const TOKENS: &str = "127.0.2.9:80";
const BEHIND_TAP: &str = "127.0.2.5:443";

/// Timeout for a client, in seconds (`timeout`).
const LONGEST_RUN: &str = "100";

/// Where contoso's blobs are redirected to.
#[derive(Clone, Copy)]
pub enum Blobs {
    /// To the dedicated data endpoint.
    DataEndpoint,
    /// To the shared storage account: dedicated data endpoints are disabled.
    StorageAccount,
}

/// How a client reaches the registries.
#[derive(Clone, Copy)]
pub enum Way<'a> {
    Direct,
    Through(&'a Gate),
    /// From another namespace, without any proxy setting.
    In(Place),
}

/// Which namespaces can reach the servers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Loopback,
    Gateway,
}

/// The result of a client's run.
pub struct Ran {
    pub command: String,
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    /// Both outputs, standard output first.
    pub text: String,
}

/// The laboratory. Fields are dropped in order: first the servers, then the directory that they
/// use.
pub struct Lab {
    daemons: Vec<Daemon>,
    _tokens: TokenService,
    storage: Tap,
    pki: Pki,
    dir: TempDir,
}

impl Lab {
    /// Moves this thread into new namespaces and starts every server there.
    pub fn new(blobs: Blobs) -> Self {
        let dir = tempfile::Builder::new().prefix("pullgate-").tempdir().unwrap();
        enter_namespaces(dir.path());
        Self::with_servers(dir, blobs, Reach::Loopback)
    }

    /// Like `new`, with a gateway between the servers and a client.
    pub fn with_gateway(blobs: Blobs) -> Self {
        let dir = tempfile::Builder::new().prefix("pullgate-").tempdir().unwrap();
        enter_namespaces(dir.path());
        let registries = (0..HOSTS.len()).flat_map(outside).map(|address| {
            let length = if address.contains(':') { 64 } else { 24 };
            format!("{address}/{length}")
        });
        site::build(dir.path(), &registries.collect::<Vec<_>>());
        Self::with_servers(dir, blobs, Reach::Gateway)
    }

    fn with_servers(dir: TempDir, blobs: Blobs, reach: Reach) -> Self {
        let hosts: Vec<&str> =
            HOSTS.iter().map(|(host, _)| *host).chain([GATE, EDGE_PARENT]).collect();
        let pki = Pki::new(dir.path(), &hosts);
        let tokens = TokenService::start(address(TOKENS), &pki);
        let blobs = match blobs {
            Blobs::DataEndpoint => "contoso.eastus.data.azurecr.io",
            Blobs::StorageAccount => "eusmanaged123.blob.core.windows.net",
        };
        let daemons = vec![
            registry(dir.path(), &pki, "contoso", "127.0.2.1:5000", blobs),
            registry(
                dir.path(),
                &pki,
                "fabrikam",
                "127.0.2.3:5000",
                "fabrikam.eastus.data.azurecr.io",
            ),
            nginx(dir.path(), &pki, reach),
        ];
        let storage = Tap::start(address("127.0.1.5:443"), address(BEHIND_TAP));
        let mut lab = Self { daemons, _tokens: tokens, storage, pki, dir };
        if GateRoute::of_this_test() == GateRoute::ParentWanted {
            let at = match reach {
                Reach::Loopback => "127.0.0.1:8079",
                Reach::Gateway => "198.51.100.254:8079",
            };
            lab.daemons.push(tinyproxy(&lab, at));
            GateRoute::Parent(at).set();
        }
        lab
    }

    /// The directory that is deleted with the laboratory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The CA of the laboratory's servers, as PEM.
    pub fn authority(&self) -> &Path {
        &self.pki.authority
    }

    /// Certificate and key of every server here, the gate's name included.
    pub fn server_certificate(&self) -> (&Path, &Path) {
        (&self.pki.certificate, &self.pki.key)
    }

    /// The directory of the blobs of `contoso` or `fabrikam`, which its data endpoint serves.
    pub fn served(&self, label: &str) -> PathBuf {
        self.dir().join(label)
    }

    /// Starts a gate and waits until it is ready.
    pub fn gate(&self, policy: &Policy) -> Gate {
        Gate::start(self.dir(), policy)
    }

    /// Starts a gate on the gateway, as an unprivileged user with these capabilities.
    pub fn gate_on_gateway(&self, capabilities: &str, policy: &Policy) -> Gate {
        Gate::start_in(Place::Gateway, capabilities, self.dir(), policy)
    }

    /// Returns the output of a gate on the gateway that fails to start.
    pub fn gate_does_not_start(&self, capabilities: &str, policy: &Policy) -> String {
        let (mut daemon, _) = spawn_in(Place::Gateway, capabilities, self.dir(), policy);
        let status = wait_until("the gate gives up", || daemon.ended());
        assert!(!status.success());
        daemon.log()
    }

    /// Loads rules on the gateway, replacing the previous ones.
    #[track_caller]
    pub fn load(&self, rules: &str) {
        let file = self.dir().join("rules.nft");
        fs::write(&file, format!("flush ruleset\n{rules}")).unwrap();
        Place::Gateway.run(&format!("nft -f {}", file.display()));
    }

    /// Returns the rules that `pullgate kit` prints for the gate on the gateway.
    #[track_caller]
    pub fn kit(&self, what: &str) -> String {
        let config = self.dir().join("gate/pullgate.toml");
        let program = env!("CARGO_BIN_EXE_pullgate");
        let line = format!("{program} kit {what} --config {}", config.display());
        self.sh(Way::Direct, &line).succeeded().stdout()
    }

    /// Adds the routes of `pullgate kit routes` on the gateway.
    #[track_caller]
    pub fn route_captured(&self) {
        let program = env!("CARGO_BIN_EXE_pullgate");
        let script = self.sh(Way::Direct, &format!("{program} kit routes")).succeeded().stdout();
        let file = self.dir().join("routes.sh");
        fs::write(&file, script).unwrap();
        // The script can be run again.
        for _ in 0..2 {
            Place::Gateway.run(&format!("sh {}", file.display()));
        }
    }

    /// Sets the resolver of a namespace.
    pub fn resolve_by(&self, place: Place, servers: &[&str]) {
        let lines = servers.iter().map(|server| format!("nameserver {server}\n"));
        let file = Path::new("/etc/netns").join(place.name()).join("resolv.conf");
        fs::write(file, lines.collect::<String>()).unwrap();
    }

    /// Returns the connections to the storage account and the bytes that they sent.
    pub fn reached_storage(&self) -> (u64, u64) {
        self.storage.counted()
    }

    /// Returns the request log of the data endpoint of contoso, fabrikam or of the storage account.
    pub fn asked(&self, host: &str) -> String {
        fs::read_to_string(self.dir().join(format!("{host}.access"))).unwrap_or_default()
    }

    /// Pushes an image of random layers directly to its registry; `reference` is `host/name:tag`.
    pub fn push(&self, reference: &str, seed: u64, sizes: &[usize]) -> Image {
        let image = Image::random(self.dir(), seed, sizes);
        self.run(Way::Direct, &self.pushing(&image, reference)).succeeded();
        image
    }

    /// Returns the command line that pushes `image`.
    pub fn pushing(&self, image: &Image, reference: &str) -> Vec<String> {
        let from = format!("oci:{}:latest", image.layout.display());
        let to = format!("docker://{reference}");
        let start = "skopeo copy --preserve-digests --dest-creds";
        start.split(' ').chain([PUSHER, &from, &to]).map(ToOwned::to_owned).collect()
    }

    /// Runs a client until it exits.
    pub fn run(&self, way: Way, line: &[impl AsRef<str>]) -> Ran {
        let output = self.command(way, line).output().unwrap();
        Ran::of(&line.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" "), &output)
    }

    /// Runs a command line whose words contain no spaces.
    pub fn sh(&self, way: Way, line: &str) -> Ran {
        self.run(way, &line.split_whitespace().collect::<Vec<_>>())
    }

    /// Creates a client command with the laboratory's environment and nothing of the machine's.
    pub fn command(&self, way: Way, line: &[impl AsRef<str>]) -> Command {
        let mut command = match way {
            Way::In(place) => place.command(ROOT, NO_CAPABILITIES, &find("timeout")),
            Way::Direct | Way::Through(_) => bound_to_this_thread("timeout"),
        };
        let client = bound_to_this_thread(line[0].as_ref());
        command.args(["--signal=KILL", LONGEST_RUN]).arg(client.get_program());
        command.args(client.get_args());
        command.args(line[1..].iter().map(AsRef::as_ref));
        self.surround(&mut command, way);
        command.stdin(Stdio::null());
        command
    }

    /// Starts a server on the client's side (containerd) with the same environment.
    pub fn daemon(&self, name: &str, line: &[&str]) -> Daemon {
        self.daemon_on(Way::Direct, name, line)
    }

    /// Creates a client command in another namespace.
    pub fn daemon_on(&self, way: Way, name: &str, line: &[&str]) -> Daemon {
        let mut command = match way {
            Way::In(place) => place.command(ROOT, NO_CAPABILITIES, &find(line[0])),
            Way::Direct | Way::Through(_) => bound_to_this_thread(line[0]),
        };
        command.args(&line[1..]);
        self.surround(&mut command, way);
        Daemon::start(name, self.dir(), &mut command, None)
    }

    /// Starts a client through a gate that the test can pause and continue.
    pub fn daemon_through(&self, gate: &Gate, name: &str, line: &[&str]) -> Daemon {
        let mut command = bound_to_this_thread(line[0]);
        command.args(&line[1..]);
        self.surround(&mut command, Way::Through(gate));
        Daemon::start(name, self.dir(), &mut command, None)
    }

    /// Gives a command the laboratory's environment.
    pub fn surround(&self, command: &mut Command, way: Way) {
        let home = self.dir().join("home");
        fs::create_dir_all(&home).unwrap();
        let credentials = home.join("auth.json");
        if !credentials.exists() {
            fs::write(&credentials, "{}").unwrap();
        }
        command
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap_or_default())
            .env("HOME", &home)
            .env("TMPDIR", &home)
            .env("XDG_RUNTIME_DIR", &home)
            .env("REGISTRY_AUTH_FILE", &credentials)
            .env("STORAGE_DRIVER", "vfs")
            .env("SSL_CERT_FILE", &self.pki.authority);
        if let Way::Through(gate) = way {
            command.env("HTTPS_PROXY", gate.proxy()).env("https_proxy", gate.proxy());
        }
    }
}

impl Ran {
    /// The result of a command.
    pub fn of(command: &str, output: &Output) -> Self {
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        let (status, stdout) = (output.status, output.stdout.clone());
        Self { command: command.to_owned(), status, stdout, text }
    }

    /// Asserts that it exited with 0.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert!(self.status.success(), "{}: {}\n{}", self.command, self.status, self.text);
        self
    }

    /// Asserts that it failed, and not because of the timeout.
    #[track_caller]
    pub fn failed(self) -> Self {
        let by_itself = self.status.code().is_some_and(|code| code != 0 && code != 137);
        assert!(by_itself, "{}: {}\n{}", self.command, self.status, self.text);
        assert_eq!(self.status.signal(), None, "{}", self.command);
        self
    }

    /// Returns the last line that the user sees.
    pub fn last_line(&self) -> &str {
        self.text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default()
    }

    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }
}

/// Has a folder appear that the machine lacks, in our mount namespace alone: an ordinary user could
/// not make it, and root should not.
fn provide(folder: &Path, dir: &Path) {
    if folder.is_dir() {
        return;
    }
    let (parent, name) = (folder.parent().unwrap(), folder.file_name().unwrap());
    let layers = dir.join("overlay").join(parent.file_name().unwrap());
    let upper = layers.join("upper");
    if upper.is_dir() {
        fs::create_dir(folder).unwrap();
        return;
    }
    let work = layers.join("work");
    for made in [&upper.join(name), &work] {
        fs::create_dir_all(made).unwrap();
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={},userxattr",
        parent.display(),
        upper.display(),
        work.display()
    );
    mount(Some("overlay"), parent, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .unwrap_or_else(|error| panic!("{} is missing: mkdir it ({error})", folder.display()));
}

/// Creates network and mount namespaces for this thread, with its own hosts file and run-time
/// directories.
fn enter_namespaces(dir: &Path) {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap_or_else(|error| {
        panic!("the tests make namespaces, which only root may ({error}); `make test` sees to that")
    });
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    // podman keeps its locks in /dev/shm and its state in /run, whatever its root is. The machine's
    // own mirrors and policies must not affect the tests.
    let ours =
        ["/run", "/dev/shm", "/var/lib/containers", "/etc/containers", "/etc/docker", "/etc/netns"];
    for fresh in ours {
        provide(Path::new(fresh), dir);
        mount(Some("tmpfs"), fresh, Some("tmpfs"), MsFlags::empty(), none).unwrap();
    }
    fs::write("/etc/containers/policy.json", r#"{"default":[{"type":"insecureAcceptAnything"}]}"#)
        .unwrap();
    let mut hosts = format!("127.0.0.1 localhost {GATE}\n");
    for (host, address) in HOSTS {
        writeln!(hosts, "{address} {host}").unwrap();
    }
    for (path, content) in [("/etc/hosts", hosts.as_str()), ("/etc/resolv.conf", "")] {
        let ours = dir.join(Path::new(path).file_name().unwrap());
        fs::write(&ours, content).unwrap();
        mount(Some(&ours), path, none, MsFlags::MS_BIND, none).unwrap();
    }
    let up = Command::new(find("ip")).args(["link", "set", "lo", "up"]).status();
    assert!(up.is_ok_and(|up| up.success()), "ip link set lo up; `make test` installs iproute2");
}

fn registry(dir: &Path, pki: &Pki, label: &str, listen: &str, blobs: &str) -> Daemon {
    let root = dir.join(label);
    fs::create_dir_all(&root).unwrap();
    let config = format!(
        r#"version: 0.1
log: {{ level: info }}
storage:
  filesystem: {{ rootdirectory: {root} }}
  redirect: {{ disable: false }}
  delete: {{ enabled: true }}
middleware:
  storage:
    - name: redirect
      options: {{ baseurl: "https://{blobs}/" }}
auth:
  token:
    realm: https://{label}.azurecr.io/oauth2/token
    service: {label}.azurecr.io
    issuer: {ISSUER}
    rootcertbundle: {signer}
http:
  addr: {listen}
  host: https://{label}.azurecr.io
  secret: not-one
"#,
        root = root.display(),
        signer = pki.signer.display(),
    );
    let file = dir.join(format!("{label}.yml"));
    fs::write(&file, config).unwrap();
    let mut command = bound_to_this_thread("docker-registry");
    command.arg("serve").arg(file).env_clear();
    Daemon::start(label, dir, &mut command, None).accepts(address(listen))
}

/// One nginx for every name: TLS in front of the registries, and the data endpoints themselves.
fn nginx(dir: &Path, pki: &Pki, reach: Reach) -> Daemon {
    let at = dir.display();
    let too = |number: usize, options: &str| match reach {
        Reach::Loopback => String::new(),
        Reach::Gateway => {
            let [v4, v6] = outside(number);
            format!("listen {v4}:443 {options}; listen [{v6}]:443 {options};")
        }
    };
    let mut servers = String::new();
    for (number, (label, front, data, behind)) in [
        ("contoso", "127.0.1.1:443", "127.0.1.2:443", "127.0.2.1:5000"),
        ("fabrikam", "127.0.1.3:443", "127.0.1.4:443", "127.0.2.3:5000"),
    ]
    .into_iter()
    .enumerate()
    {
        let front_too = too(2 * number, "ssl http2");
        let data_too = too(2 * number + 1, "ssl http2");
        write!(
            servers,
            "server {{
                listen {front} ssl http2; {front_too} server_name {label}.azurecr.io;
                access_log {at}/{label}.azurecr.io.access;
                proxy_set_header Host $host; proxy_set_header X-Forwarded-Proto https;
                proxy_http_version 1.1; proxy_request_buffering off; proxy_buffering off;
                location /oauth2/ {{ proxy_pass http://{TOKENS}; }}
                location / {{ proxy_pass http://{behind}; }}
            }}
            server {{
                listen {data} ssl http2; {data_too} server_name {label}.eastus.data.azurecr.io;
                root {at}/{label}; access_log {at}/{label}.eastus.data.azurecr.io.access;
                location /sync/ {{ dav_methods PUT; create_full_put_path on; }}
            }}\n"
        )
        .unwrap();
    }
    let config = format!(
        "daemon off; master_process off; user root; pid {at}/nginx.pid; error_log stderr;
        events {{ worker_connections 4000; }}
        http {{
            client_body_temp_path {at}/nginx-body; proxy_temp_path {at}/nginx-proxy;
            fastcgi_temp_path {at}/nginx-fastcgi; uwsgi_temp_path {at}/nginx-uwsgi;
            scgi_temp_path {at}/nginx-scgi;
            ssl_certificate {certificate}; ssl_certificate_key {key};
            ssl_protocols TLSv1.2 TLSv1.3; ssl_ecdh_curve X25519:prime256v1; client_max_body_size 0; default_type application/octet-stream; sendfile on; send_timeout 300s;
            {servers}
            server {{
                listen {BEHIND_TAP} ssl; {storage_too} server_name eusmanaged123.blob.core.windows.net;
                access_log {at}/eusmanaged123.blob.core.windows.net.access;
                root {at}/contoso; dav_methods PUT; create_full_put_path on;
            }}
        }}",
        storage_too = too(4, "ssl"),
        certificate = pki.certificate.display(),
        key = pki.key.display(),
    );
    let file = dir.join("nginx.conf");
    fs::write(&file, config).unwrap();
    let mut command = bound_to_this_thread("nginx");
    command.arg("-p").arg(dir).arg("-c").arg(file).env_clear();
    let mut daemon = Daemon::start("nginx", dir, &mut command, None);
    for listen in ["127.0.1.1:443", "127.0.1.2:443", "127.0.1.3:443", BEHIND_TAP] {
        daemon = daemon.accepts(address(listen));
    }
    daemon
}

pub fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}
