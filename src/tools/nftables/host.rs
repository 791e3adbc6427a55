//! The rules of a host with a gate of its own: the gate's user goes out, everybody else's traffic is
//! brought to the gate, or dropped.

use std::net::IpAddr;

use super::text::Text;
use super::{ADDITIONS, CLOSED, Cgroup, Doors, Family, Kit, MARK, Word, place, set};
use crate::config::{Answer, Capture};

/// Elsewhere than on this host itself.
const OUTWARD: &str = "meta skuid != $gate fib daddr type != local";

/// The mark of the gate's own connections. It stays with the connection: of what a program leaves to
/// the system when it closes, no user is known.
const OWN_MARK: &str = "0x3128";

/// The mark of connections that came in by an interface.
const ENTERED_MARK: &str = "0x312a";

/// ICMPv6 without which IPv6 finds no neighbour and no router (RFC 4890 §4.4.1). Reports of
/// multicast groups are not among it: every program can join groups of its choice.
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
        &["For a host with a gate of its own, which runs as a user of its own: nobody else has a way \
           out but the gate, and needs no setting for it. Root is everybody: whoever is root can \
           change these rules. Keep a console at hand: everything that is not named here is dropped.",
            "Whoever comes in gets an answer: what may come in, other rules have to say."],
    );
    // A name is looked up when the rules are loaded.
    text.line(&format!("define gate = {}", word(user)));
    text.comment("The ports of the policy's hosts, and those that the gate dials.");
    text.line(&format!("define ports = {}", set(kit.ports())));
    text.line(&format!("define dialled = {}", set(kit.dialled_ports())));
    text.comment(
        "Marks of connections: those of the gate, and those that came in by an interface.",
    );
    text.line(&format!("define own = {OWN_MARK}"));
    text.line(&format!("define entered = {ENTERED_MARK}"));
    if kit.capture == Capture::Tproxy {
        text.line(&format!("define captured = {MARK}"));
    }
    text.blank();
    text.delete_table(CLOSED);
    text.table("pullgate_host", |text| {
        text.comment("To the transparent listener, whatever address was dialled.");
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
            text.comment("Without the routes the mark would be a way out.");
            text.chain("leave", "filter hook postrouting priority filter; policy accept", |text| {
                text.line("meta mark $captured oifname != \"lo\" drop");
            });
            text.blank();
        }
        text.comment(
            "Containers on a bridge are forwarded. To let them through the gate, load the rules of \
             `pullgate kit nftables --inside BRIDGE --outside INTERFACE` too. What else may be \
             forwarded stands in files of these names.",
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
            // Redirected, it comes to loopback; a listener elsewhere has to be named.
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
        "TPROXY takes what comes in, so that what goes out is marked, and thereby comes in by \
         loopback. The mark stays with the connection: a program that has ended has no user.",
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

/// The addresses of this host that the answerer sends clients to.
fn sent_here<'a>(kit: &Kit<'a>, family: Family) -> impl Iterator<Item = &'a IpAddr> {
    let own = kit.settings.answerer.iter().flat_map(|answerer| match &answerer.answer {
        Answer::Gate(addresses) => addresses.as_slice(),
        Answer::Real => &[],
    });
    own.filter(move |address| Family::of(**address) == family)
}

/// What is answered. The direction of a connection does not tell where it began: a program can bind
/// another machine's address and speak under it to this host.
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
            "Nobody speaks under an address that this host does not have: IPV6_FREEBIND needs no \
             privilege.",
        );
        text.line("ct direction original fib saddr type != local drop");
        text.comment(
            "Answers to connections that came in. Connections from before these rules end, unless the \
             other end sends first and no rule tracked the connection: restart the machine once.",
        );
        text.line("ct state { established, related } ct direction reply ct mark $entered accept");
        text.line(NEIGHBOURS);
        text.comment(
            "The gate. Of a closed socket the user is not known, so that its TCP connections are known \
             by their mark; new ones and datagrams are not.",
        );
        text.line("ct state established ct mark $own tcp flags & syn == 0 accept");
        identity(text, cgroup);
        if kit.capture == Capture::Tproxy {
            text.comment("Everybody else, to the gate.");
            text.line("meta mark $captured accept");
        }
        text.comment(
            "On this host itself anything is accepted, except a stub resolver, which would send \
             anybody's names outside.",
        );
        for door in kit.settings.answerer.iter().flat_map(|answerer| &answerer.addresses) {
            let daddr = format!("{} daddr {}", Family::of(door.ip()).word(), door.ip());
            let port = door.port();
            text.line(&format!("{daddr} meta l4proto {{ tcp, udp }} th dport {port} accept"));
        }
        text.line("fib daddr type local meta l4proto { tcp, udp } th dport 53 drop");
        text.line("fib daddr type local accept");
        text.comment(
            "What else this host needs stands in files of these names, which pullgate never writes. \
             Open each to one address, such as NTP; on Azure the agent, which runs as root; and, if \
             switches filter IPv6 multicast (MLD snooping), reports, which tell the neighbours \
             whatever group a program joins:",
        );
        text.example("ip daddr 10.0.0.4 udp dport 123 accept");
        text.example("meta skuid 0 ip daddr 168.63.129.16 tcp dport { 80, 32526 } accept");
        text.example("icmpv6 type { mld-listener-report, mld-listener-done, mld2-listener-report } accept");
        text.line(&format!("include \"{ADDITIONS}/host-output*.nft\""));
    });
}

/// Who the gate is.
fn identity(text: &mut Text, cgroup: Option<&Cgroup>) {
    let Some(cgroup) = cgroup else {
        text.comment(
            "Its user id is all that identifies it: a process that takes this id, for example root in \
             a container with the host's network, passes for the gate. `--cgroup` names its cgroup as \
             well; it needs Linux 5.13 and cgroup v2.",
        );
        text.line("meta skuid $gate jump gate");
        return;
    };
    text.comment(
        "Its user and its cgroup identify it. The cgroup must exist when the rules are loaded, and \
         must not be made anew after that. If nft does not accept this rule, this machine has no \
         cgroup v2 or a Linux before 5.13: print the rules without `--cgroup`.",
    );
    text.line(&format!(
        "meta skuid $gate socket cgroupv2 level {} \"{cgroup}\" jump gate",
        cgroup.level()
    ));
}

/// Where the gate may go.
fn gate(text: &mut Text, kit: &Kit<'_>) {
    text.comment("To its upstreams and its DNS servers.");
    text.rules_of("gate", |text| {
        text.line("ct state new tcp dport $dialled ct mark set $own accept");
        servers(text, kit);
    });
}

fn servers(text: &mut Text, kit: &Kit<'_>) {
    let servers = &kit.policy.rules().dns_servers;
    if servers.is_empty() {
        text.comment("Name [dns] servers in the configuration, and only those are open.");
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
            "A DNS server on this host needs a way out too: add one for its user, or name the servers \
             that it asks in [dns] servers.",
        );
    }
}
