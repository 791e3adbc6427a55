//! An external host that no traffic may reach. It accepts every connection and every datagram, and
//! the kernel counts each packet to its addresses, on every port.

use std::process::Command;

use super::daemon::{Daemon, find};
use super::lab::{Lab, address};

pub const ATTACKER: [&str; 2] = ["198.51.100.66", "2001:db8::66"];

/// The attacker's server, which listens on every port that a test tries. It also answers instead of
/// a cloud's metadata services.
const LISTENER: &str = r#"
import asyncio

async def take(reader, writer):
    while await reader.read(4096):
        pass
    writer.close()

class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport
    def datagram_received(self, data, sender):
        self.transport.sendto(data, sender)

async def main():
    loop = asyncio.get_running_loop()
    for host in ["198.51.100.66", "2001:db8::66"]:
        for port in [22, 53, 80, 853, 8443, 443]:
            await asyncio.start_server(take, host, port)
        for port in [53, 443]:
            await loop.create_datagram_endpoint(Echo, local_addr=(host, port))
    for host in ["169.254.169.254", "168.63.129.16", "fd00:ec2::254"]:
        await loop.create_datagram_endpoint(Echo, local_addr=(host, 53))
        await asyncio.start_server(take, host, 80)
    await asyncio.Event().wait()

asyncio.run(main())
"#;

/// The attacker can own a storage account, and can use the machine's identity if it can read the
/// cloud's metadata.
const RULES: &str = "table inet watch {
    counter reached {}
    counter registries {}
    chain input {
        type filter hook input priority filter
        iifname \"lo\" accept
        ip daddr { 198.51.100.66, 198.51.100.15, 169.254.169.254, 168.63.129.16 } \
            counter name reached
        ip6 daddr { 2001:db8::66, 2001:db8::15, fd00:ec2::254 } counter name reached
        ip daddr 198.51.100.11-198.51.100.14 counter name registries
        ip6 daddr 2001:db8::11-2001:db8::14 counter name registries
    }
}";

pub struct Attacker {
    _listener: Daemon,
}

impl Attacker {
    /// Starts the server outside.
    pub fn start(lab: &Lab) -> Self {
        let loaded = Command::new(find("nft")).arg(RULES).status().unwrap();
        assert!(loaded.success());
        let listener = lab.daemon("attacker", &["python3", "-c", LISTENER]);
        let listener = listener.accepts(address("168.63.129.16:80"));
        Self { _listener: listener }
    }

    /// Returns the number of packets that reached the attacker.
    pub fn reached(&self) -> u64 {
        Self::packets("reached")
    }

    /// Returns the number of packets that reached the registries; the attacker can see them too.
    pub fn seen(&self) -> u64 {
        Self::packets("registries")
    }

    /// Resets the counters.
    pub fn forget(&self) {
        let line = ["reset", "counters", "table", "inet", "watch"];
        let reset = Command::new(find("nft")).args(line).output();
        assert!(reset.unwrap().status.success());
    }

    fn packets(counter: &str) -> u64 {
        let line = ["list", "counter", "inet", "watch", counter];
        let listed = Command::new(find("nft")).args(line).output().unwrap();
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        let mut words = text.split_whitespace();
        words.find(|word| *word == "packets").unwrap();
        words.next().unwrap().parse().unwrap()
    }
}
