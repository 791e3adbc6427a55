//! The rules for a host that runs its own gate: the gate's user may connect to other hosts, and the
//! traffic of all other users is redirected to the gate or dropped.

use std::net::IpAddr;

use super::kit::{ADDITIONS, CLOSED, Cgroup, Doors, Family, Kit, MARK, Word, place, set};
use super::text::Text;
use crate::config::{AnswerWith, Capture};

/// Packets of other users to other hosts.
const OUTWARD: &str = "meta skuid != $gate fib daddr type != local";

/// The conntrack mark of the gate's connections. Packets of a closed socket have no user.
const OWN_MARK: &str = "0x3128";

/// The mark of connections that arrived on an interface.
const ENTERED_MARK: &str = "0x312a";

/// ICMPv6 that IPv6 needs for neighbour and router discovery (RFC 4890 §4.4.1), without multicast
/// group reports, because any program can join groups of its choice.
const NEIGHBOURS: &str =
    "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } accept";

pub(super) fn rules(
    kit: &Kit<'_>,
    Word(user): &Word,
    cgroup: Option<&Cgroup>,
    doors: &Doors,
) -> String {
    let mut text = Text::default();
    kit.heading(
        &mut text,
        &["For a host that runs its own gate under a dedicated user. All other users can connect to the \
           gate only, and their programs need no setting. Root is not restricted: it can change \
           these rules. Keep a console open: outgoing connections that are not listed here are \
           dropped.",
            "Incoming connections are answered: restrict them with other rules."],
    );
    // nft resolves names when it loads the rules.
    text.line(&format!("define gate = {}", word(user)));
    text.comment("The ports of the hosts in the policy, and the ports that the gate dials.");
    text.line(&format!("define ports = {}", set(kit.ports())));
    let dialled = kit.dialled_ports();
    if !dialled.is_empty() {
        text.line(&format!("define dialled = {}", set(dialled)));
    }
    text.comment(
        "Conntrack marks: connections of the gate, and connections that came in by an interface.",
    );
    text.line(&format!("define own = {OWN_MARK}"));
    text.line(&format!("define entered = {ENTERED_MARK}"));
    if kit.capture == Capture::Tproxy {
        text.line(&format!("define captured = {MARK}"));
    }
    text.blank();
    text.delete_table(CLOSED);
    text.table("pullgate_host", |text| {
        text.comment("Redirects connections to the transparent listener, whatever their destination.");
        match kit.capture {
            Capture::Redirect => redirect(text, kit, doors),
            Capture::Tproxy => tproxy(text, kit, doors),
        }
        text.blank();
        entered(text);
        text.blank();
        output(text, kit, cgroup);
        text.blank();
        gate(text, kit);
        text.blank();
        if kit.capture == Capture::Tproxy {
            text.comment("Drops marked packets if the routes are missing.");
            text.chain("leave", "filter hook postrouting priority filter; policy accept", |text| {
                text.line("meta mark $captured oifname != \"lo\" drop");
            });
            text.blank();
        }
        text.comment(
            "Traffic of containers on a bridge is forwarded. To redirect it to the gate, also load the \
             rules of `pullgate kit nftables --inside BRIDGE --outside INTERFACE`. Put additions into \
             files with these names.",
        );
        text.chain("forward", "filter hook forward priority filter; policy drop", |text| {
            text.line(&format!("include \"{ADDITIONS}/host-forward*.nft\""));
        });
    });
    text.into_string()
}

fn word(user: &str) -> String {
    let is_number = user.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { user.to_owned() } else { format!("\"{user}\"") }
}

fn redirect(text: &mut Text, kit: &Kit<'_>, doors: &Doors) {
    text.chain("capture", "nat hook output priority -100; policy accept", |text| {
        doors.tell_absent(text);
        for (family, door) in doors.iter() {
            // Redirected traffic arrives on loopback; a listener elsewhere must be named.
            let to = match door.ip().is_unspecified() || door.ip().is_loopback() {
                true => format!("redirect to :{}", door.port()),
                false => format!("dnat {} to {}", family.word(), place(door)),
            };
            let only = family.only();
            text.line(&format!("{OUTWARD} {only} tcp dport $ports {to}"));
            for own in sent_here(kit, family) {
                let daddr = format!("{} daddr {own}", family.word());
                text.line(&format!("meta skuid != $gate {daddr} tcp dport $ports {to}"));
            }
        }
    });
}

fn tproxy(text: &mut Text, kit: &Kit<'_>, doors: &Doors) {
    text.comment(
        "TPROXY works on incoming packets only. Outgoing packets are marked, and the routes send marked \
         packets to loopback. The mark is kept in conntrack: packets of a closed socket have no user.",
    );
    text.chain("mark_output", "route hook output priority mangle; policy accept", |text| {
        doors.tell_absent(text);
        for (family, _) in doors.iter() {
            let new = format!("{} tcp dport $ports ct state new ct mark set $captured", family.only());
            text.line(&format!("{OUTWARD} {new}"));
            for own in sent_here(kit, family) {
                let daddr = format!("{} daddr {own}", family.word());
                text.line(&format!(
                    "meta skuid != $gate {daddr} tcp dport $ports ct state new ct mark set $captured"
                ));
            }
        }
        text.line("ct direction original ct mark $captured meta mark set $captured");
    });
    text.blank();
    text.chain("capture", "filter hook prerouting priority mangle; policy accept", |text| {
        for (family, door) in doors.iter() {
            let (word, to) = (family.word(), place(door));
            text.line(&format!(
                "iifname \"lo\" meta mark $captured meta l4proto tcp tproxy {word} to {to} accept"
            ));
        }
    });
}

/// Returns the addresses of this host in the DNS answers of the gate.
fn sent_here<'a>(kit: &Kit<'a>, family: Family) -> impl Iterator<Item = &'a IpAddr> {
    let own = kit.settings.answerer.iter().flat_map(|answerer| match &answerer.answer {
        AnswerWith::Gate(addresses) => addresses.as_slice(),
        AnswerWith::Real => &[],
    });
    own.filter(move |address| Family::of(**address) == family)
}

/// Returns the rules for replies. The direction of a connection does not show where it began: a
/// program can bind another machine's address and send from it to this host.
fn entered(text: &mut Text) {
    text.comment(
        "Connections that came in by an interface, from an address to which the route leads back over \
         the same interface, and that no other rule of input dropped: only these are answered.",
    );
    text.chain("entered", "filter hook input priority 200; policy accept", |text| {
        text.line(
            "iifname != \"lo\" fib saddr . iif oif exists ct direction original ct mark set $entered",
        );
    });
}

fn output(text: &mut Text, kit: &Kit<'_>, cgroup: Option<&Cgroup>) {
    text.chain("output", "filter hook output priority filter; policy drop", |text| {
        text.comment(
            "Drops packets whose source is not an address of this host. A process can send them without \
             privileges (IPV6_FREEBIND).",
        );
        text.line("ct direction original fib saddr type != local drop");
        text.comment(
            "Replies to connections that came in. Connections from before these rules end, unless the \
             peer sends first and conntrack did not know the connection: reboot the machine once.",
        );
        text.line("ct state { established, related } ct direction reply ct mark $entered accept");
        text.line(NEIGHBOURS);
        text.comment(
            "Established TCP connections of the gate, by their mark: packets of a closed socket have no \
             user. New connections and datagrams must be sent by the gate itself.",
        );
        text.line("ct state established ct mark $own tcp flags & syn == 0 accept");
        identity(text, cgroup);
        if kit.capture == Capture::Tproxy {
            text.comment("Marked packets of all other users, to the gate.");
            text.line("meta mark $captured accept");
        }
        text.comment(
            "Connections within this host, except to a stub resolver, which would forward queries of \
             every process.",
        );
        for door in kit.settings.answerer.iter().flat_map(|answerer| &answerer.addresses) {
            let daddr = format!("{} daddr {}", Family::of(door.ip()).word(), door.ip());
            let port = door.port();
            text.line(&format!("{daddr} meta l4proto {{ tcp, udp }} th dport {port} accept"));
        }
        text.line("fib daddr type local meta l4proto { tcp, udp } th dport 53 drop");
        text.line("fib daddr type local accept");
        text.comment(
            "Put additions into files with these names, which pullgate never writes. Permit single \
             addresses, for example of NTP or of the agent on Azure, which runs as root. If your \
             switches filter IPv6 multicast (MLD snooping), permit reports; programs can then send data \
             to the neighbours in the names of groups:",
        );
        text.example("ip daddr 10.0.0.4 udp dport 123 accept");
        text.example("meta skuid 0 ip daddr 168.63.129.16 tcp dport { 80, 32526 } accept");
        text.example("icmpv6 type { mld-listener-report, mld-listener-done, mld2-listener-report } accept");
        text.line(&format!("include \"{ADDITIONS}/host-output*.nft\""));
    });
}

/// Returns the match of the gate's processes.
fn identity(text: &mut Text, cgroup: Option<&Cgroup>) {
    let Some(cgroup) = cgroup else {
        text.comment(
            "The gate is identified by its user id only: a process that takes this id, for example root \
             in a container with the host's network, is not restricted. `--cgroup` checks the gate's \
             cgroup as well; it requires Linux 5.13 and cgroup v2.",
        );
        text.line("meta skuid $gate jump gate");
        return;
    };
    text.comment(
        "The gate is identified by its user and its cgroup. The cgroup must exist when the rules are \
         loaded, and must not be created again afterwards. If nft rejects this rule, this machine has \
         no cgroup v2 or a Linux before 5.13: print the rules without `--cgroup`.",
    );
    text.line(&format!(
        "meta skuid $gate socket cgroupv2 level {} \"{cgroup}\" jump gate",
        cgroup.level()
    ));
}

/// Returns where the gate can connect to.
fn gate(text: &mut Text, kit: &Kit<'_>) {
    text.comment("Connections of the gate to upstreams and DNS servers.");
    text.rules_of("gate", |text| {
        if !kit.dialled_ports().is_empty() {
            text.line("ct state new tcp dport $dialled ct mark set $own accept");
        }
        parents(text, kit);
        servers(text, kit);
    });
}

/// The parent proxies.
fn parents(text: &mut Text, kit: &Kit<'_>) {
    let (known, ports) = kit.parents();
    for address in known {
        let daddr = format!("{} daddr {}", Family::of(address.ip()).word(), address.ip());
        let port = address.port();
        text.line(&format!("ct state new {daddr} tcp dport {port} ct mark set $own accept"));
    }
    if !ports.is_empty() {
        text.comment(
            "Parent proxies whose names are in DNS only: pin them in [dns.hosts] to permit only \
             their addresses.",
        );
        let ports = set(ports);
        text.line(&format!("ct state new tcp dport {ports} ct mark set $own accept"));
    }
}

fn servers(text: &mut Text, kit: &Kit<'_>) {
    let servers = &kit.policy.rules().dns_servers;
    if servers.is_empty() {
        text.comment(
            "Any DNS server: set [dns] servers in the configuration to permit only these.",
        );
        let dns = "meta l4proto { tcp, udp } th dport 53";
        text.line(&format!("{dns} ct mark set $own accept"));
    }
    for server in servers {
        let daddr = format!("{} daddr {}", Family::of(server.ip()).word(), server.ip());
        let dns = format!("meta l4proto {{ tcp, udp }} th dport {}", server.port());
        text.line(&format!("{daddr} {dns} ct mark set $own accept"));
    }
    if servers.iter().any(|server| server.ip().is_loopback()) {
        text.comment(
            "The DNS server on this host needs a rule for its own user to query other servers. Or set \
             these servers in [dns] servers.",
        );
    }
}
