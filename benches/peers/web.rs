//! A web server at the far end of the link: Debian's nginx, over HTTP/1.1 and HTTP/2.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::certificate::Certificate;
use crate::process::{Daemon, program};

/// The objects that it has, by name and size in bytes.
pub const OBJECTS: &[(&str, u64)] =
    &[("1KiB", 1 << 10), ("100KiB", 100 << 10), ("1MiB", 1 << 20), (DOWNLOAD, 1 << 30)];

/// The object that takes longer than any measurement.
pub const DOWNLOAD: &str = "download";

/// A running web server.
pub struct Web {
    pub address: SocketAddr,
    /// Its certificate, in DER and as a file.
    pub certificate: Vec<u8>,
    pub file: PathBuf,
    daemon: Daemon,
}

impl Web {
    /// Starts it in the network namespace of a process, with its files in `folder`. Returns `None` if
    /// nginx or curl is not installed.
    pub fn start(folder: &Path, far: u32, host: Ipv4Addr) -> anyhow::Result<Option<Self>> {
        if program("nginx").is_none() || program("curl").is_none() {
            return Ok(None);
        }
        let folder = folder.join("web");
        fs::create_dir_all(&folder)?;
        for (name, size) in OBJECTS {
            File::create(folder.join(name))?.set_len(*size)?;
        }
        let own = Certificate::of_hosts()?;
        let (certificate, key) = own.write(&folder)?;
        let address = SocketAddr::from((host, 443));
        let text = format!(
            "daemon off;
worker_processes auto;
pid {home}/pid;
error_log {home}/error.log crit;
events {{
    worker_connections 1024;
}}
http {{
    access_log off;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    server {{
        listen {address} ssl http2;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.2 TLSv1.3;
        root {home};
    }}
}}
",
            home = folder.display(),
            certificate = certificate.display(),
            key = key.display(),
        );
        let configuration = folder.join("nginx.conf");
        fs::write(&configuration, text)?;
        let nsenter = program("nsenter").context("nsenter is missing: install util-linux")?;
        let mut command = Command::new(nsenter);
        command.arg(format!("--net=/proc/{far}/ns/net")).arg(program("nginx").unwrap_or_default());
        command.arg("-e").arg(folder.join("error.log")).arg("-p").arg(&folder);
        command.arg("-c").arg(configuration);
        let daemon = Daemon::start(&mut command, &folder.join("log"))?.accepting(address)?;
        Ok(Some(Self { address, certificate: own.der, file: certificate, daemon }))
    }

    pub fn processes(&self) -> Vec<u32> {
        self.daemon.processes()
    }
}
