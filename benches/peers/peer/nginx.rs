//! nginx: an allow-list by SNI (`ssl_preread`).

use std::fs;
use std::path::Path;
use std::process::Command;

use super::place::{Place, version_of};
use crate::process::{Daemon, program};
use crate::wire::{DATA, LOGIN};

/// Debian has the stream module in a separate package.
const MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

pub fn start(place: &Place<'_>) -> anyhow::Result<Daemon> {
    let Place { folder, address, origin, descriptors, .. } = place;
    let module =
        if Path::new(MODULE).exists() { format!("load_module {MODULE};") } else { String::new() };
    let log = folder.join("error.log");
    let text = format!(
        "{module}
daemon off;
worker_processes auto;
worker_rlimit_nofile {descriptors};
pid {pid};
error_log {log} crit;
events {{
    worker_connections {connections};
}}
stream {{
    access_log off;
    map $ssl_preread_server_name $upstream {{
        {LOGIN} {origin};
        {DATA} {origin};
        default \"\";
    }}
    server {{
        listen {address} reuseport backlog=4096;
        ssl_preread on;
        proxy_pass $upstream;
        proxy_timeout 600s;
    }}
}}
",
        connections = descriptors - 100,
        pid = folder.join("pid").display(),
        log = log.display(),
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, text)?;
    let mut command = Command::new(program("nginx").unwrap_or_default());
    let daemon = Daemon::start(
        command.arg("-e").arg(&log).arg("-p").arg(folder).arg("-c").arg(file),
        &folder.join("log"),
    )?;
    daemon.accepting(*address)
}

pub fn version() -> String {
    version_of("nginx", "-v")
}
