//! `pullgate.toml`: its keys and their defaults.

mod answerer;
mod conduct;
mod dns;
mod listen;

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::clients;
use super::inspect::{self, InspectTable};
use super::parents::{self, ParentSpec};
use super::settings::{AuditTarget, BATCH, OnFull, Profile, Settings};
use super::source::Source;
use super::table::Table;
use super::tls::TlsPaths;
use super::uploads::Uploads;
use super::values::{DOWNLOAD, RegistryDefaults, SESSIONS, beside, enforcement, new_sessions};
use crate::policy::{
    Enforcement, Limits, Located, Location, NameServer, ParentChoice, Rules, never_dialled,
    parse_range,
};

/// The content of the main file.
#[derive(Debug)]
pub(super) struct Main {
    pub(super) settings: Settings,
    /// The rules without the registries.
    pub(super) rules: Rules,
    /// The folder of the registries, as written, and its place.
    pub(super) registries: Located<String>,
    /// Whether a folder without registries is intended.
    pub(super) allow_empty: bool,
    /// The place of `deny-all = true`.
    pub(super) deny_all: Option<Location>,
    /// The defaults for registries.
    pub(super) inherited: RegistryDefaults,
    /// The TLS settings of the listeners, and their places.
    pub(super) tls: Vec<Located<TlsPaths>>,
    /// The path of the users file, and the users that clients name.
    pub(super) users_file: PathBuf,
    pub(super) named_users: Vec<Located<String>>,
    /// The `[[parent]]`s, whose files are not read yet.
    pub(super) parents: Vec<ParentSpec>,
    /// `[inspect]`, whose files are not read yet.
    pub(super) inspect: Option<InspectTable>,
    /// Whether there is such a table, valid or not.
    pub(super) has_inspect: bool,
}

/// Default of `[policy] registries`.
const REGISTRIES: &str = "registries.d";

/// Default of `[policy] users-file`.
const USERS: &str = "users";

/// No timeout exceeds one day.
const MILLISECONDS: RangeInclusive<u64> = 1..=24 * 60 * 60 * 1000;
/// Default of `[dns] stale-ms`: how long an expired answer is used while no server answers.
const STALE: Duration = Duration::from_secs(600);
/// Range of `batch-ms`. 0 disables batching; larger values would cause noticeable delays.
const BATCH_MILLISECONDS: RangeInclusive<u64> = 0..=100;

/// The defaults of `[policy]` for all registries.
struct PolicyTable {
    registries: Located<String>,
    enforcement: Enforcement,
    users_file: String,
    inherited: RegistryDefaults,
    allow_empty: bool,
    deny_all: Option<Location>,
    parent: ParentChoice,
}

impl PolicyTable {
    /// The rules of this table alone.
    fn rules(&self) -> Rules {
        Rules {
            dns_stale: STALE,
            enforcement: self.enforcement,
            parent: self.parent.clone(),
            verify_upstream: self.inherited.verify_upstream,
            ..Rules::default()
        }
    }
}

pub(super) fn read(source: &Source<'_>) -> Main {
    let toml = source.toml();
    let mut file = Table::of_file(source, &toml);
    let mut taken = HashSet::new();
    let (listeners, tls) = listen::listeners(source, &mut file, &mut taken);
    let admin = file
        .table("admin", "[admin]")
        .and_then(|table| listen::admin_address(source, table, &mut taken));
    let policy = policy(source, file.table("policy", "[policy]"));
    let mut rules = policy.rules();
    let PolicyTable { registries, users_file, inherited, allow_empty, deny_all, .. } = policy;
    let mut named_users = Vec::new();
    rules.clients = clients::read(source, &mut file, &tls, &mut named_users);
    let parents = parents::read(source, &mut file);
    let (has_inspect, inspect) = inspect::main_table(source, &mut file);
    let helpers = parents.iter().filter_map(ParentSpec::program).collect();
    let servers = file.table("dns", "[dns]").map(|table| dns(source, table, &mut rules));
    let servers = servers.unwrap_or_default();
    if let Some(mut table) = file.table("addresses", "[addresses]") {
        for written in table.strings("allow") {
            rules.allowed_addresses.extend(range(source, &written));
        }
        table.finish();
    }
    let conduct = file.table("process", "[process]");
    let conduct = conduct.map(|table| conduct::conduct(source, table)).unwrap_or_default();
    if conduct.profile == Profile::Small {
        rules.limits.open_sessions = SMALL_SESSIONS;
        rules.limits.open_sessions_per_client = SMALL_SESSIONS;
    }
    if let Some(table) = file.table("limits", "[limits]") {
        rules.limits = limits(table, rules.limits);
    }
    let answerer = file.table("answerer", "[answerer]").and_then(|table| {
        let place = table.place().clone();
        let answerer = answerer::read(source, table, &mut taken)?;
        answerer::judge_servers(source, &answerer, &servers);
        answerer::judge_listeners(source, &answerer, place, &listeners);
        Some(answerer)
    });
    let batch = file.table("relay", "[relay]").and_then(batch).unwrap_or(BATCH);
    let batch = Some(batch).filter(|batch| !batch.is_zero());
    let audit = file.table("audit", "[audit]").map(|table| audit(source, table));
    file.finish();
    let (audit, on_full) = audit.unwrap_or((AuditTarget::StandardOutput, OnFull::GoOn));
    Main {
        settings: Settings { listeners, answerer, admin, audit, on_full, batch, conduct, helpers },
        rules,
        registries,
        allow_empty,
        deny_all,
        inherited,
        tls,
        users_file: beside(source, &users_file),
        named_users,
        parents,
        inspect,
        has_inspect,
    }
}

fn policy(source: &Source<'_>, table: Option<Table<'_>>) -> PolicyTable {
    let mut policy = PolicyTable {
        registries: Located { value: REGISTRIES.to_owned(), place: source.whole() },
        enforcement: Enforcement::default(),
        users_file: USERS.to_owned(),
        inherited: RegistryDefaults::default(),
        allow_empty: false,
        deny_all: None,
        parent: ParentChoice::Inherited,
    };
    let Some(mut table) = table else { return policy };
    policy.registries.place = table.place().clone();
    match table.string("registries") {
        Some(folder) if folder.value.is_empty() => {
            let remedy = "name a folder, such as \"registries.d\"";
            source.fault(folder.place, "registries is empty", remedy);
        }
        Some(folder) => policy.registries = folder,
        None => {}
    }
    policy.enforcement = enforcement(source, &mut table).unwrap_or_default();
    if let Some(written) = table.string("users-file") {
        policy.users_file = written.value;
    }
    policy.inherited = RegistryDefaults {
        download: table.number("download-bytes-per-second", DOWNLOAD),
        uploads: Uploads::read(&mut table),
        clientele: clients::clientele(source, &mut table).unwrap_or_default(),
        verify_upstream: table.boolean("verify-upstream").is_some_and(|found| found.value),
        ..RegistryDefaults::default()
    };
    policy.parent = parents::choice(&mut table);
    policy.allow_empty = table.boolean("allow-empty").is_some_and(|found| found.value);
    let deny_all = table.boolean("deny-all").filter(|found| found.value);
    policy.deny_all = deny_all.map(|found| found.place);
    table.finish();
    policy
}

/// Reads `[dns]` into the rules. Returns its servers and their places.
fn dns(source: &Source<'_>, mut table: Table<'_>, rules: &mut Rules) -> Vec<Located<NameServer>> {
    let mut servers = Vec::new();
    for written in table.strings("servers") {
        let server = dns::server(source, &written);
        servers.extend(server.map(|value| Located { value, place: written.place }));
    }
    rules.dns_servers = servers.iter().map(|server| server.value.clone()).collect();
    if let Some(milliseconds) = table.number("stale-ms", 0..=*MILLISECONDS.end()) {
        rules.dns_stale = Duration::from_millis(milliseconds);
    }
    if let Some(hosts) = table.table("hosts", "[dns.hosts]") {
        rules.pins = dns::pins(source, hosts);
    }
    table.finish();
    servers
}

fn batch(mut table: Table<'_>) -> Option<Duration> {
    let milliseconds = table.number("batch-ms", BATCH_MILLISECONDS);
    table.finish();
    milliseconds.map(Duration::from_millis)
}

fn audit(source: &Source<'_>, mut table: Table<'_>) -> (AuditTarget, OnFull) {
    let path = table.string("path");
    let on_full = table.string("on-full");
    table.finish();
    let target = path.and_then(|path| match path.value.as_str() {
        // Opening these by name fails if standard output is a socket, as under systemd.
        "-" | "/dev/stdout" | "/dev/fd/1" | "/proc/self/fd/1" => Some(AuditTarget::StandardOutput),
        "syslog" => Some(AuditTarget::Syslog("/dev/log".into())),
        "journal" => Some(AuditTarget::Journal("/run/systemd/journal/socket".into())),
        "" => {
            let remedy = "write \"-\" for standard output, \"syslog\", \"journal\" or a path";
            source.fault(path.place, "path is empty", remedy);
            None
        }
        other => Some(match (other.strip_prefix("syslog:"), other.strip_prefix("journal:")) {
            (Some(socket), _) => AuditTarget::Syslog(beside(source, socket)),
            (_, Some(socket)) => AuditTarget::Journal(beside(source, socket)),
            (None, None) => AuditTarget::File(beside(source, other)),
        }),
    });
    let on_full = on_full.and_then(|written| match written.value.as_str() {
        "go-on" => Some(OnFull::GoOn),
        "stop" => Some(OnFull::Stop),
        other => {
            let what = format!("on-full {other:?} is unknown");
            source.fault(written.place, what, "write \"go-on\" or \"stop\"");
            None
        }
    });
    (target.unwrap_or(AuditTarget::StandardOutput), on_full.unwrap_or_default())
}

fn range(source: &Source<'_>, written: &Located<String>) -> Option<IpNet> {
    let place = written.place.clone();
    let Some(range) = parse_range(&written.value) else {
        let what = format!("{:?} is not an address range", written.value);
        let remedy = "write it as 10.1.0.0/24, fd00:1::/64 or a single address";
        source.fault(place, what, remedy);
        return None;
    };
    if let Some(why) = never_dialled(&range) {
        source.fault(place, format!("{range} is {why}, which no setting allows"), "remove it");
        return None;
    }
    if range.prefix_len() == 0 {
        let what = format!("{range} allows every address that can be allowed, for every registry");
        source.warn(place, what, "list the ranges that are needed");
    }
    Some(range)
}

/// What `hello-bytes` may be, in bytes. The smallest hello that names a server has some 100.
const HELLO_BYTES: RangeInclusive<u64> = 512..=65_536;

/// Open sessions where `[process] profile` is `"small"` and `[limits]` is silent.
const SMALL_SESSIONS: usize = 256;

fn limits(mut table: Table<'_>, mut limits: Limits) -> Limits {
    let mut wait = |key, limit: &mut Duration| {
        if let Some(milliseconds) = table.number(key, MILLISECONDS) {
            *limit = Duration::from_millis(milliseconds);
        }
    };
    wait("head-timeout-ms", &mut limits.head_timeout);
    wait("hello-timeout-ms", &mut limits.hello_timeout);
    wait("dial-timeout-ms", &mut limits.dial_timeout);
    wait("idle-timeout-ms", &mut limits.idle_timeout);
    wait("stall-timeout-ms", &mut limits.stall_timeout);
    wait("drain-timeout-ms", &mut limits.drain_timeout);
    wait("session-lifetime-ms", &mut limits.session_lifetime);
    let hello_bytes = table.number("hello-bytes", HELLO_BYTES);
    if let Some(bytes) = hello_bytes.and_then(|bytes| usize::try_from(bytes).ok()) {
        limits.hello_bytes = bytes;
    }
    let mut count = |key, limit: &mut usize| {
        if let Some(number) = table.number(key, SESSIONS).and_then(|one| usize::try_from(one).ok())
        {
            *limit = number;
        }
    };
    count("open-sessions", &mut limits.open_sessions);
    count("open-sessions-per-client", &mut limits.open_sessions_per_client);
    limits.new_sessions_per_second_per_client =
        new_sessions(&mut table, "new-sessions-per-second-per-client");
    table.finish();
    limits
}
