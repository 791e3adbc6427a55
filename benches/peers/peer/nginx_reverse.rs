//! nginx as a reverse proxy before a registry, with TLS on both sides. It caches nothing.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::place::Place;
use crate::process::{Daemon, program};
use crate::wire::LOGIN;

/// Starts it with the files of its own certificate and key.
///
/// It keeps its connections to the registry and verifies the registry's certificate, as the gate does.
/// `proxy_buffering` is on, with buffers that hold a few TLS records and no file: with the default
/// buffers, or without buffering, nginx needs more CPU time.
// long: most of it is its configuration file.
pub fn start(place: &Place<'_>, (certificate, key): &(PathBuf, PathBuf)) -> anyhow::Result<Daemon> {
    let Place { folder, address, origin, descriptors, .. } = place;
    let log = folder.join("error.log");
    let text = format!(
        "daemon off;
worker_processes auto;
worker_rlimit_nofile {descriptors};
pid {home}/pid;
error_log {home}/error.log crit;
events {{
    worker_connections {connections};
}}
http {{
    access_log off;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    upstream registry {{
        server {origin};
        keepalive 64;
        keepalive_requests 1000000;
    }}
    server {{
        listen {address} ssl reuseport backlog=4096;
        server_name {LOGIN};
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.2 TLSv1.3;
        keepalive_requests 1000000;
        location / {{
            proxy_pass https://registry;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_set_header Host {LOGIN};
            proxy_ssl_name {LOGIN};
            proxy_ssl_server_name on;
            proxy_ssl_protocols TLSv1.2 TLSv1.3;
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate {trusted};
            proxy_buffering on;
            proxy_buffer_size 64k;
            proxy_buffers 8 64k;
            proxy_busy_buffers_size 128k;
            proxy_max_temp_file_size 0;
        }}
    }}
}}
",
        home = folder.display(),
        connections = descriptors - 100,
        certificate = certificate.display(),
        key = key.display(),
        trusted = place.write_certificate()?.display(),
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, text)?;
    let mut command = Command::new(program("nginx").unwrap_or_default());
    let command = command.arg("-e").arg(&log).arg("-p").arg(folder).arg("-c").arg(file);
    Daemon::start(command, &folder.join("log"))?.accepting(*address)
}
