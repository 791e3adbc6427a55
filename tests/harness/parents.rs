//! Parent proxies: Squid and tinyproxy, a second gate, and one that answers as the test says.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::PATIENCE;
use super::daemon::Daemon;
use super::lab::{Lab, Way, address};

/// Squid at an address, with the rules (`http_access` and what they need) that the test gives.
pub fn squid(lab: &Lab, at: &str, rules: &str) -> Daemon {
    // It gives up root before it opens its files, and only this test sees /run.
    let dir = Path::new("/run").join(format!("squid-{}", at.replace(':', "-")));
    fs::create_dir_all(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    let config = format!(
        "http_port {at}\npid_filename none\ncache deny all\nshutdown_lifetime 1 second\n\
         memory_cache_shared off\n\
         access_log stdio:{dir}/access.log\ncache_log {dir}/cache.log\ncoredump_dir {dir}\n\
         logfile_rotate 0\nnetdb_filename none\npinger_enable off\nhosts_file /etc/hosts\n\
         visible_hostname squid.corp.example\n{rules}\n",
        dir = dir.display(),
    );
    let file = dir.join("squid.conf");
    fs::write(&file, config).unwrap();
    let name = format!("squid-{}", at.replace(':', "-"));
    // Its helpers write there, too.
    let temporary = format!("TMPDIR={}", dir.display());
    let program = super::find("squid").display().to_string();
    let line = ["env", &temporary, &program, "-N", "-f", file.to_str().unwrap()];
    lab.daemon(&name, &line).accepts(address(at))
}

/// Rules of Squid that demand a user and a password by Basic, and allow CONNECT to any port.
pub fn with_basic(lab: &Lab, user: &str, password: &str) -> String {
    let file = Path::new("/run/squid.users");
    let hash = lab.sh(Way::Direct, &format!("openssl passwd -apr1 {password}")).succeeded();
    fs::write(file, format!("{user}:{}\n", hash.stdout())).unwrap();
    format!(
        "auth_param basic program /usr/lib/squid/basic_ncsa_auth {}\nauth_param basic children 2\n\
         acl known proxy_auth REQUIRED\nhttp_access allow known\nhttp_access deny all",
        file.display()
    )
}

/// tinyproxy at an address.
pub fn tinyproxy(lab: &Lab, at: &str) -> Daemon {
    let (host, port) = at.rsplit_once(':').unwrap();
    let file = lab.dir().join(format!("tinyproxy-{port}.conf"));
    fs::write(&file, format!("Listen {host}\nPort {port}\nTimeout 600\nMaxClients 5000\n"))
        .unwrap();
    let name = format!("tinyproxy-{port}");
    lab.daemon(&name, &["tinyproxy", "-d", "-c", file.to_str().unwrap()]).accepts(address(at))
}

/// Another gate, whose whole configuration the test gives.
pub fn second_gate(lab: &Lab, at: &str, main: &str) -> Daemon {
    let dir = lab.dir().join(format!("gate-{}", at.replace(':', "-")));
    fs::create_dir_all(dir.join("registries.d")).unwrap();
    fs::write(dir.join("registries.d/contoso.json"), super::az_json("contoso")).unwrap();
    let file = dir.join("pullgate.toml");
    let audit = format!("\n[audit]\npath = \"{}\"\n", dir.join("audit.jsonl").display());
    fs::write(&file, format!("{main}{audit}")).unwrap();
    let line = [env!("CARGO_BIN_EXE_pullgate"), "run", "--config", file.to_str().unwrap()];
    lab.daemon(&format!("gate-{}", at.replace(':', "-")), &line).accepts(address(at))
}

/// A parent that reads a request and then sends these bytes, whatever was asked.
pub struct ScriptedParent {
    pub address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl ScriptedParent {
    /// `closes`: whether it closes the connection after its bytes. They are sent in small pieces.
    pub fn start(bytes: Vec<u8>, closes: bool) -> Self {
        Self::start_in_pieces(bytes, closes, 7)
    }

    /// The same, with the size of the pieces.
    pub fn start_in_pieces(bytes: Vec<u8>, closes: bool, size: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        thread::spawn(move || {
            let mut kept = Vec::new();
            while let Ok((mut socket, _)) = listener.accept() {
                counted.fetch_add(1, Ordering::SeqCst);
                let _ = socket.set_read_timeout(Some(PATIENCE));
                let mut request = [0; 4096];
                let _ = socket.read(&mut request);
                for piece in bytes.chunks(size) {
                    let _ = socket.write_all(piece);
                }
                if !closes {
                    kept.push(socket);
                }
            }
        });
        Self { address, asked }
    }

    /// How many connections it has accepted.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// Sends a CONNECT to a proxy and returns the connection and the answer's status line.
pub fn connect_through(proxy: &str, target: &str, fields: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(proxy).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{fields}\r\n").unwrap();
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        line.push(byte[0]);
    }
    (stream, String::from_utf8_lossy(&line).trim_end().to_owned())
}
