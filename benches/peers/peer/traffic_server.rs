//! Apache Traffic Server as a forward proxy with CONNECT; remap rules are its allow-list.

use std::fs;
use std::process::Command;

use super::place::{Place, version_of};
use crate::process::{Daemon, program};
use crate::wire::{DATA, LOGIN};

/// Files that it requires; they can be empty.
const EMPTY: &[&str] = &[
    "cache.config",
    "hosting.config",
    "logging.yaml",
    "parent.config",
    "plugin.config",
    "sni.yaml",
    "socks.config",
    "splitdns.config",
    "ssl_multicert.config",
    "storage.config",
    "strategies.yaml",
    "volume.config",
];

// long: most of it is its configuration files.
pub fn start(place: &Place<'_>) -> anyhow::Result<Daemon> {
    let Place { folder, address, origin, descriptors, tunnels, .. } = place;
    let home = folder.display();
    for name in ["etc", "var", "run", "log", "cache"] {
        fs::create_dir_all(folder.join(name))?;
    }
    let etc = folder.join("etc");
    for name in EMPTY {
        fs::write(etc.join(name), "")?;
    }
    let port = origin.port();
    let map = |host: &str| format!("map https://{host}:{port} https://{origin}\n");
    fs::write(etc.join("remap.config"), map(LOGIN) + &map(DATA))?;
    fs::write(
        etc.join("ip_allow.yaml"),
        "ip_allow:
  - apply: in
    ip_addrs: 127.0.0.1
    action: allow
    methods: ALL
",
    )?;
    fs::write(
        etc.join("records.config"),
        format!(
            "CONFIG proxy.config.http.server_ports STRING {listen}:ip-in={ip}
CONFIG proxy.config.http.connect_ports STRING {port}
CONFIG proxy.config.http.cache.http INT 0
CONFIG proxy.config.reverse_proxy.enabled INT 1
CONFIG proxy.config.url_remap.remap_required INT 1
CONFIG proxy.config.log.logging_enabled INT 0
CONFIG proxy.config.admin.user_id STRING #-1
CONFIG proxy.config.crash_log_helper STRING NULL
CONFIG proxy.config.net.connections_throttle INT {descriptors}
CONFIG proxy.config.net.max_connections_in INT {tunnels}
CONFIG proxy.config.http.transaction_no_activity_timeout_in INT 600
CONFIG proxy.config.http.transaction_no_activity_timeout_out INT 600
",
            listen = address.port(),
            ip = address.ip(),
        ),
    )?;
    let root = folder.join("runroot.yaml");
    fs::write(
        &root,
        format!(
            "prefix: {home}
exec_prefix: {home}
bindir: /usr/bin
sbindir: /usr/sbin
sysconfdir: {home}/etc
datadir: {home}/var
includedir: {home}/var
libdir: /usr/lib/trafficserver
libexecdir: /usr/lib/trafficserver/modules
localstatedir: {home}/var
runtimedir: {home}/run
logdir: {home}/log
cachedir: {home}/cache
"
        ),
    )?;
    let mut command = Command::new(program("traffic_server").unwrap_or_default());
    let command = command.arg(format!("--run-root={}", root.display()));
    Daemon::start(command, &folder.join("log.txt"))?.accepting(*address)
}

pub fn version() -> String {
    version_of("traffic_server", "-V")
}
