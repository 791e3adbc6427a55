//! The rules of a host with a gate of its own: the gate's user goes out, everybody else's traffic is
//! brought to the gate, or dropped.

use std::net::IpAddr;

use super::text::Text;
use super::{Doors, Family, Kit, MARK, Word, place, set};
use crate::config::{Answer, Capture};

/// Elsewhere than on this host itself.
const OUTWARD: &str = "meta skuid != $gate fib daddr type != local";

/// The mark of the gate's own connections. It stays with the connection: of what a program leaves to
/// the system when it closes, no user is known.
const OWN_MARK: &str = "0x3128";

/// ICMPv6 without which IPv6 finds no neighbour and no router, and switches that watch multicast do
/// not find the host (RFC 4890 §4.4.1).
const NEIGHBOURS: &str = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, \
                          nd-router-solicit, mld-listener-report, mld-listener-done, \
                          mld2-listener-report } accept";

pub(super) fn rules(kit: &Kit<'_>, Word(user): &Word, doors: &Doors) -> String {
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
    text.line(&format!("define own = {OWN_MARK}"));
    if kit.capture == Capture::Tproxy {
        text.line(&format!("define captured = {MARK}"));
    }
    text.blank();
    text.table("pullgate_host", |text| {
        text.comment("To the transparent listener, whatever address was dialled.");
        match kit.capture {
            Capture::Redirect => redirect(text, kit, doors),
            Capture::Tproxy => tproxy(text, kit, doors),
        }
        text.blank();
        output(text, kit);
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
             `pullgate kit nftables --inside BRIDGE` in place of this chain.",
        );
        text.chain("forward", "filter hook forward priority filter; policy drop", |_| {});
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

fn output(text: &mut Text, kit: &Kit<'_>) {
    text.chain("output", "filter hook output priority filter; policy drop", |text| {
        text.comment(
            "Answers to who came in. What began before these rules does not go on, unless the other \
             end speaks first and nothing knew the connection: restart the machine once.",
        );
        text.line("ct state established ct direction reply accept");
        text.line("ct state related accept");
        text.line(NEIGHBOURS);
        text.comment("The gate, to its upstreams and its DNS servers.");
        text.line("ct state established ct mark $own accept");
        text.line("ct state new meta skuid $gate tcp dport $dialled ct mark set $own accept");
        servers(text, kit);
        if kit.capture == Capture::Tproxy {
            text.comment("Everybody else, to the gate.");
            text.line("meta mark $captured accept");
        }
        text.comment(
            "On this host itself anything, but for a stub resolver, which would carry anybody's names \
             outside.",
        );
        for door in kit.settings.answerer.iter().flat_map(|answerer| &answerer.addresses) {
            let daddr = format!("{} daddr {}", Family::of(door.ip()).word(), door.ip());
            let port = door.port();
            text.line(&format!("{daddr} meta l4proto {{ tcp, udp }} th dport {port} accept"));
        }
        text.line("fib daddr type local meta l4proto { tcp, udp } th dport 53 drop");
        text.line("fib daddr type local accept");
        text.comment(
            "Add what else this host needs, each to one address, such as NTP; and on Azure, where its \
             agent runs as root:",
        );
        text.example("ip daddr 10.0.0.4 udp dport 123 accept");
        text.example("meta skuid 0 ip daddr 168.63.129.16 tcp dport { 80, 32526 } accept");
    });
}

fn servers(text: &mut Text, kit: &Kit<'_>) {
    let servers = &kit.policy.rules().dns_servers;
    if servers.is_empty() {
        text.comment("Name [dns] servers in the configuration, and only those are open.");
        let dns = "meta l4proto { tcp, udp } th dport 53";
        text.line(&format!("ct state new meta skuid $gate {dns} ct mark set $own accept"));
    }
    for server in servers {
        let daddr = format!("{} daddr {}", Family::of(server.ip()).word(), server.ip());
        let dns = format!("meta l4proto {{ tcp, udp }} th dport {}", server.port());
        text.line(&format!("ct state new meta skuid $gate {daddr} {dns} ct mark set $own accept"));
    }
    if servers.iter().any(|server| server.ip().is_loopback()) {
        text.comment(
            "A DNS server on this host needs a way out too: add one for its user, or name the servers \
             that it asks in [dns] servers.",
        );
    }
}
