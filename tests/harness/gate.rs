//! The gate under test. Tests use only its public interface: the configuration, the proxy's port,
//! the admin endpoints, signals and the audit file.

use std::cell::Cell;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use serde_json::Value;

use super::daemon::{Daemon, bound_to_this_thread};
use super::lab::{HOSTS, address};
use super::site::{GATE_USER, Place};
use super::{PATIENCE, wait_until, wait_until_within};

pub const PROXY: &str = "127.0.0.1:3128";
pub const ADMIN: &str = "127.0.0.1:9128";

thread_local! {
    /// How the gates of this thread's test reach registries.
    static ROUTE: Cell<GateRoute> = const { Cell::new(GateRoute::AsWritten) };
}

/// How the gates of a test reach registries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum GateRoute {
    /// As the test's policy says.
    AsWritten,
    /// Through a parent, which the laboratory has not started yet.
    ParentWanted,
    /// Through the parent at this address.
    Parent(&'static str),
}

impl GateRoute {
    pub fn of_this_test() -> Self {
        ROUTE.get()
    }

    pub fn set(self) {
        ROUTE.set(self);
    }

    /// Keys of the `[policy]` table, and tables.
    fn written(self) -> (&'static str, String) {
        let Self::Parent(at) = self else { return ("", String::new()) };
        let parent = format!(
            "\n[[parent]]\nname = \"again\"\naddresses = [\"{at}\"]\nconnect = \"address\"\n"
        );
        ("parent = \"again\"\n", parent)
    }
}

/// Runs a test again, with each of its gates behind a parent proxy that is asked for addresses.
pub fn behind_a_parent(test: fn()) {
    GateRoute::ParentWanted.set();
    test();
}

/// The operator's configuration: the files of the registries folder, and keys of `pullgate.toml`.
pub struct Policy {
    pub registries: Vec<(String, String)>,
    /// The folder, relative to `pullgate.toml`.
    pub folder: String,
    /// The `[dns]` tables.
    pub dns: String,
    /// Further lines of the `[policy]` table.
    pub policy: String,
    /// Further tables, at the end of the file.
    pub more: String,
}

impl Policy {
    /// One file for each label, as `az acr show-endpoints` prints it.
    pub fn of(labels: &[&str]) -> Self {
        let registries =
            labels.iter().map(|label| (format!("{label}.json"), az_json(label))).collect();
        let folder = "registries.d".to_owned();
        let hosts: String =
            HOSTS.iter().map(|(host, address)| format!("\"{host}\" = [\"{address}\"]\n")).collect();
        let dns = format!("[dns.hosts]\n{hosts}");
        Self { registries, folder, dns, policy: String::new(), more: String::new() }
    }

    /// Adds a file to the folder.
    pub fn with_file(mut self, name: &str, content: &str) -> Self {
        self.registries.push((name.to_owned(), content.to_owned()));
        self
    }

    /// Sets another folder.
    pub fn with_registries(mut self, folder: &str) -> Self {
        folder.clone_into(&mut self.folder);
        self
    }

    /// Replaces the `[dns]` tables, which by default hold fixed answers for the laboratory's names.
    pub fn with_dns(mut self, tables: &str) -> Self {
        tables.clone_into(&mut self.dns);
        self
    }

    /// Adds tables.
    pub fn with_more(mut self, tables: &str) -> Self {
        self.more.push_str(tables);
        self
    }

    /// Adds a line to the `[policy]` table.
    pub fn with_policy(mut self, line: &str) -> Self {
        self.policy.push_str(line);
        self.policy.push('\n');
        self
    }
}

/// What `az acr show-endpoints --name LABEL` prints.
pub fn az_json(label: &str) -> String {
    format!(
        r#"{{
  "dataEndpoints": [
    {{
      "endpoint": "{label}.eastus.data.azurecr.io",
      "region": "eastus",
    }}
  ],
  "loginServer": "{label}.azurecr.io"
}}
"#
    )
}

/// A running gate. On drop, every line of its audit is validated against the manual's schema.
pub struct Gate {
    daemon: Daemon,
    dir: PathBuf,
    place: Option<Place>,
}

impl Gate {
    /// Writes the files, starts the gate and waits until it is ready.
    pub fn start(dir: &Path, policy: &Policy) -> Self {
        Self::start_with(bound_to_this_thread(env!("CARGO_BIN_EXE_pullgate")), dir, policy)
    }

    /// Like `start`, with a limit of `most` file descriptors.
    pub fn start_with_descriptors(most: usize, dir: &Path, policy: &Policy) -> Self {
        let mut command = bound_to_this_thread("prlimit");
        command.args([&format!("--nofile={most}:{most}"), env!("CARGO_BIN_EXE_pullgate")]);
        Self::start_with(command, dir, policy)
    }

    /// Like `start`, with a command that executes the gate.
    pub fn start_by(command: Command, dir: &Path, policy: &Policy) -> Self {
        Self::start_with(command, dir, policy)
    }

    fn start_with(mut command: Command, dir: &Path, policy: &Policy) -> Self {
        let dir = dir.join("gate");
        let config = write_config(&dir, policy);
        command.arg("run").arg("--config").arg(config).env_clear();
        let daemon = Daemon::start("pullgate", &dir, &mut command, None);
        Self { daemon: daemon.accepts(address(ADMIN)), dir, place: None }.ready()
    }

    /// Like `start`, in another network namespace, as an unprivileged user with these capabilities,
    /// such as `+net_admin`.
    pub fn start_in(place: Place, capabilities: &str, dir: &Path, policy: &Policy) -> Self {
        let (daemon, dir) = spawn_in(place, capabilities, dir, policy);
        let daemon = daemon.accepts_in(place, address(ADMIN));
        Self { daemon, dir, place: Some(place) }.ready()
    }

    fn ready(self) -> Self {
        let mut gate = self;
        wait_until("the gate is ready", || {
            gate.daemon.assert_alive();
            (gate.admin("/readyz").0 == 200).then_some(())
        });
        gate
    }

    /// The URL for HTTPS_PROXY.
    pub fn proxy(&self) -> String {
        format!("http://{PROXY}")
    }

    /// The registries folder.
    pub fn registries(&self) -> PathBuf {
        self.dir.join("registries.d")
    }

    /// Returns status and body of an admin endpoint.
    pub fn admin(&self, path: &str) -> (u16, String) {
        let connect = || TcpStream::connect(ADMIN).unwrap();
        let mut stream = self.place.map_or_else(connect, |place| place.inside(connect));
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {ADMIN}\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        (status, body.to_owned())
    }

    /// Returns the sum of a metric's series whose labels contain every given `name="value"`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let (_, text) = self.admin("/metrics");
        text.lines()
            .filter_map(|line| line.rsplit_once(' '))
            .filter(|(series, _)| {
                let bare = series.split('{').next() == Some(name);
                bare && labels.iter().all(|label| series.contains(label))
            })
            .filter_map(|(_, value)| value.parse::<f64>().ok())
            .sum()
    }

    /// The audit file.
    pub fn audit_file(&self) -> PathBuf {
        self.dir.join("audit.jsonl")
    }

    /// Returns the audit lines so far.
    pub fn audit(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.audit_file()).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole
            .lines()
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
            })
            .collect()
    }

    /// Returns the audit lines once every session has ended and been written.
    pub fn audit_of_all(&self) -> Vec<Value> {
        // Clients close spare connections in their own time.
        wait_until_within(PATIENCE * 3, "every session has its audit line", || {
            let open = self.metric("pullgate_open_sessions", &[]);
            let counted = self.metric("pullgate_sessions_total", &[]);
            let lines = self.audit();
            let sessions = lines.iter().filter(|line| line["kind"].is_null()).count();
            (open == 0.0 && counted == sessions as f64).then_some(lines)
        })
    }

    /// As [`Self::audit_of_all`], without what clients aborted: see
    /// [`relayed_or_aborted`](super::relayed_or_aborted).
    pub fn audit_of_pulls(&self) -> Vec<Value> {
        let mut lines = self.audit_of_all();
        lines.retain(|line| line["reason"] != "client-aborted");
        lines
    }

    /// Waits for the first audit line with the given fields.
    pub fn audited(&self, fields: &[(&str, &str)]) -> Value {
        wait_until(&format!("the audit has a line with {fields:?}"), || {
            self.audit()
                .into_iter()
                .find(|line| fields.iter().all(|(name, value)| line[*name].as_str() == Some(value)))
        })
    }

    /// Waits for the first audit line with a given fact.
    pub fn audited_fact(&self, name: &str, value: &str) -> Value {
        wait_until(&format!("the audit has a line with {name} {value}"), || {
            self.audit().into_iter().find(|line| line["facts"][name] == value)
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// Returns the gate's standard error.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// Sends a signal, `HUP` or `TERM`.
    pub fn signal(&self, name: &str) {
        self.daemon.signal(name);
    }

    /// Waits for its exit.
    pub fn ended(&mut self) -> ExitStatus {
        wait_until("the gate ends", || self.daemon.ended())
    }
}

/// Starts a gate in another namespace.
pub fn spawn_in(
    place: Place,
    capabilities: &str,
    dir: &Path,
    policy: &Policy,
) -> (Daemon, PathBuf) {
    let dir = dir.join("gate");
    let config = write_config(&dir, policy);
    let user = GATE_USER.parse().ok();
    std::os::unix::fs::chown(&dir, user, user).unwrap();
    // A previous gate may have left its audit file.
    let _ = fs::remove_file(dir.join("audit.jsonl"));
    let program = Path::new(env!("CARGO_BIN_EXE_pullgate"));
    let mut command = place.command(GATE_USER, capabilities, program);
    command.arg("run").arg("--config").arg(config).env_clear();
    (Daemon::start("pullgate", &dir, &mut command, None), dir)
}

impl Drop for Gate {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let schema = serde_json::from_str(include_str!("../../docs/audit.schema.json")).unwrap();
        let schema = jsonschema::validator_for(&schema).unwrap();
        let is_through_parent = matches!(GateRoute::of_this_test(), GateRoute::Parent(_));
        for line in self.audit() {
            assert!(schema.is_valid(&line), "docs/audit.schema.json does not know {line}");
            let is_relayed = line["kind"].is_null() && line["outcome"] == "relayed";
            assert!(!(is_through_parent && is_relayed) || line["parent"] == "again", "{line}");
        }
    }
}

/// Writes `pullgate.toml` and the folder below `dir`. Returns the path of `pullgate.toml`.
pub fn write_config(dir: &Path, policy: &Policy) -> PathBuf {
    let folder = dir.join("registries.d");
    fs::create_dir_all(&folder).unwrap();
    for (name, content) in &policy.registries {
        fs::write(folder.join(name), content).unwrap();
    }
    let config = dir.join("pullgate.toml");
    let (route, parent) = GateRoute::of_this_test().written();
    let text = format!(
        r#"[[listen]]
mode = "connect"
address = "{PROXY}"

[admin]
address = "{ADMIN}"

[policy]
registries = "{folder}"
{route}{policy}
{dns}
[addresses]
allow = ["127.0.0.0/8", "198.51.100.0/24", "2001:db8::/32"]

[audit]
path = "{audit}"
{more}{parent}"#,
        folder = policy.folder,
        dns = policy.dns,
        policy = policy.policy,
        audit = dir.join("audit.jsonl").display(),
        more = policy.more,
    );
    fs::write(&config, text).unwrap();
    config
}
