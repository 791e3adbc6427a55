//! The system's DNS servers from resolv.conf(5). Its search lists and options are ignored.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::net::if_::if_nametoindex;
use tracing::warn;

use crate::policy::NameServer;

/// The file that names the system's servers.
pub(super) const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Maximum number of system servers (MAXNS in resolv.conf(5)).
const SYSTEM_SERVERS: usize = 3;

/// Maximum size of the file that is read, in bytes.
const LARGEST_FILE: u64 = 64 * 1024;

/// Identifies a version of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        let changed = (found.ctime(), found.ctime_nsec());
        Some(Self { inode: found.ino(), size: found.len(), changed })
    }
}

/// Returns the system's DNS servers. Omits servers whose interface does not exist.
#[must_use]
pub fn system_servers() -> Vec<SocketAddr> {
    let servers = name_servers(Path::new(RESOLV_CONF));
    servers.iter().filter_map(|server| socket_address(server).ok()).collect()
}

/// Returns the address of a server: the kernel needs the index of an interface, not its name.
///
/// # Errors
/// When the interface does not exist.
pub(super) fn socket_address(server: &NameServer) -> io::Result<SocketAddr> {
    let (Some(zone), IpAddr::V6(ip)) = (server.zone(), server.ip()) else {
        return Ok(SocketAddr::new(server.ip(), server.port()));
    };
    let index = match zone.parse() {
        Ok(index) => index,
        Err(_) => if_nametoindex(zone)?,
    };
    Ok(scoped(ip, server.port(), index))
}

fn scoped(ip: Ipv6Addr, port: u16, index: u32) -> SocketAddr {
    SocketAddrV6::new(ip, port, 0, index).into()
}

/// Returns the servers in a file. Comments can use any encoding.
pub(super) fn name_servers(resolv_conf: &Path) -> Vec<NameServer> {
    let bytes = read(resolv_conf)
        .inspect_err(|error| warn!(%error, path = %resolv_conf.display(), "no name servers read"))
        .unwrap_or_default();
    let named = bytes.split(|byte| *byte == b'\n').filter_map(|line| {
        let is_space = |byte: &u8| byte.is_ascii_whitespace();
        let mut words = line.split(is_space).filter(|word| !word.is_empty());
        words.next().filter(|word| *word == b"nameserver")?;
        NameServer::parse(std::str::from_utf8(words.next()?).ok()?).filter(|one| one.port() == 53)
    });
    named.take(SYSTEM_SERVERS).collect()
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_servers_are_those_that_its_programs_ask() {
        let cases: &[(&[u8], &[&str])] = &[
            (b"nameserver 10.0.0.53\n", &["10.0.0.53:53"]),
            (
                b"search a.example\nnameserver\t10.0.0.53 # first\nnameserver fd00::53\n",
                &["10.0.0.53:53", "[fd00::53]:53"],
            ),
            (b"# nameserver 10.0.0.1\n;nameserver 10.0.0.2\noptions ndots:5\n", &[]),
            (
                b"nameserver 10.0.0.1\nnameserver nonsense\nnameserver 10.0.0.3\n",
                &["10.0.0.1:53", "10.0.0.3:53"],
            ),
            (
                b"nameserver 1.1.1.1\nnameserver 1.1.1.2\nnameserver 1.1.1.3\nnameserver 1.1.1.4\n",
                &["1.1.1.1:53", "1.1.1.2:53", "1.1.1.3:53"],
            ),
            (b"", &[]),
            // Latin-1, as an old tool wrote it.
            (b"# r\xe9seau\nnameserver 10.0.0.53\nsearch \xff.example\n", &["10.0.0.53:53"]),
            (b"nameserver \xff\nnameserver 10.0.0.53", &["10.0.0.53:53"]),
            (b"\xef\xbb\xbf# by Notepad\r\nnameserver 10.0.0.53\r\n", &["10.0.0.53:53"]),
            (b"nameserver fe80::53%eth0\n", &["[fe80::53%eth0]:53"]),
            (b"nameserver 127.0.0.1:5353\n", &[]),
        ];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        for (text, expected) in cases {
            fs::write(&path, text).unwrap();
            let found: Vec<String> = name_servers(&path).iter().map(ToString::to_string).collect();
            assert_eq!(&found, expected, "{}", text.escape_ascii());
        }
        assert!(name_servers(&folder.path().join("absent")).is_empty());
        assert!(name_servers(folder.path()).is_empty());
    }

    #[test]
    fn a_zone_is_an_interface_by_name_or_index() {
        let at = |text: &str| socket_address(&NameServer::parse(text).unwrap());
        let index = if_nametoindex("lo").unwrap();
        assert_eq!(at("fe80::53%lo").unwrap(), scoped("fe80::53".parse().unwrap(), 53, index));
        assert_eq!(at("[fe80::53%7]:5353").unwrap().to_string(), "[fe80::53%7]:5353");
        assert_eq!(at("fd00::53").unwrap().to_string(), "[fd00::53]:53");
        assert!(at("fe80::53%absent0").is_err());
    }
}
