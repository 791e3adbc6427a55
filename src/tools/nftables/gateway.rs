//! The rules of a gateway: what its clients send is brought to the gate, or dropped.

use std::net::SocketAddr;

use super::text::Text;
use super::{ADDITIONS, CLOSED, Doors, Family, Kit, MARK, Word, place, set};
use crate::config::{Capture, Mode};

/// ICMPv6 without which IPv6 finds no neighbour and no router, and switches that watch multicast do
/// not find the gateway (RFC 4890 §4.4.1).
const NEIGHBOURS: &str = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, \
                          nd-router-solicit, mld-listener-query } accept";

pub(super) fn rules(kit: &Kit<'_>, inside: &[Word], outside: &[Word], doors: &Doors) -> String {
    let mut text = Text::default();
    kit.heading(
        &mut text,
        &["For a gateway: clients behind its inside interfaces have no way out but the gate, and need \
           no setting for it. Nothing is accepted from an interface that is not named here, and \
           nothing is forwarded. The gateway's own programs are not restricted."],
    );
    let quoted = |names: &[Word]| -> Vec<String> {
        names.iter().map(|Word(name)| format!("\"{name}\"")).collect()
    };
    text.comment("Where clients are.");
    text.line(&format!("define inside = {}", set(quoted(inside))));
    text.comment("Where the registries are, and networks without clients.");
    text.line(&format!("define outside = {}", set(quoted(outside))));
    let itself = std::iter::once("\"lo\"".to_owned());
    text.line(&format!("define trusted = {}", set(itself.chain(quoted(outside)))));
    text.comment("The ports of the policy's hosts.");
    text.line(&format!("define ports = {}", set(kit.ports())));
    if kit.capture == Capture::Tproxy {
        text.line(&format!("define captured = {MARK}"));
    }
    text.blank();
    text.delete_table(CLOSED);
    text.table("pullgate_gateway", |text| {
        text.comment("To the transparent listener, whatever address was dialled.");
        match kit.capture {
            Capture::Redirect => redirect(text, doors),
            Capture::Tproxy => tproxy(text, doors),
        }
        text.blank();
        input(text, kit, doors);
        text.blank();
        from_inside(text, kit, doors);
        text.blank();
        text.comment(
            "Nothing is forwarded, and connections from before these rules end. What may be forwarded \
             all the same stands in files of these names, which pullgate never writes.",
        );
        text.chain("forward", "filter hook forward priority filter; policy drop", |text| {
            text.line(&format!("include \"{ADDITIONS}/gateway-forward*.nft\""));
        });
    });
    text.into_string()
}

fn redirect(text: &mut Text, doors: &Doors) {
    text.chain("capture", "nat hook prerouting priority dstnat; policy accept", |text| {
        doors.tell_absent(text);
        for (family, door) in doors.iter() {
            let (only, to) = match door.ip().is_unspecified() {
                true => (format!("{} ", family.only()), format!("redirect to {}", place(door))),
                false => (String::new(), format!("dnat {} to {}", family.word(), place(door))),
            };
            text.line(&format!("iifname $inside {only}tcp dport $ports {to}"));
        }
    });
}

fn tproxy(text: &mut Text, doors: &Doors) {
    text.chain("capture", "filter hook prerouting priority mangle; policy accept", |text| {
        doors.tell_absent(text);
        for (family, door) in doors.iter() {
            let (word, to) = (family.word(), place(door));
            text.line(&format!(
                "iifname $inside tcp dport $ports tproxy {word} to {to} meta mark set $captured accept"
            ));
        }
    });
}

fn input(text: &mut Text, kit: &Kit<'_>, doors: &Doors) {
    text.comment(
        "What clients may send to the gateway itself, and only from an address to which the route \
         leads back over the same interface: an answer to a forged address would carry what they \
         sent to its owner.",
    );
    text.chain("input", "filter hook input priority filter; policy drop", |text| {
        text.line(&format!("iifname $inside {NEIGHBOURS}"));
        text.line("iifname $inside fib saddr . iif oif exists jump from_inside");
        text.comment("The gate is for clients only: its listeners cannot be reached from outside.");
        for (family, door) in doors.iter() {
            text.line(&format!(
                "iifname $outside {}tcp dport {} drop",
                at(family, door),
                door.port()
            ));
        }
        for door in answerers(kit) {
            let (to, port) = (at(Family::of(door.ip()), door), door.port());
            text.line(&format!(
                "iifname $outside {to}meta l4proto {{ tcp, udp }} th dport {port} drop"
            ));
        }
        text.comment("The gateway itself, and its upstreams: no other interface is accepted.");
        text.line("iifname $trusted accept");
    });
}

/// Nothing is accepted for being of a connection, or what began before the rules would go on.
fn from_inside(text: &mut Text, kit: &Kit<'_>, doors: &Doors) {
    text.rules_of("from_inside", |text| {
        text.comment("Answers to what the gateway itself begins, and errors of what is accepted.");
        text.line("ct state established ct direction reply accept");
        text.line("ct state related accept");
        text.comment("The gate.");
        match kit.capture {
            Capture::Redirect => doors.iter().for_each(|(family, door)| {
                text.line(&format!("{}tcp dport {} accept", at(family, door), door.port()));
            }),
            Capture::Tproxy => text.line("meta mark $captured accept"),
        }
        let proxies = kit.settings.listeners.iter().filter(|one| one.mode == Mode::Connect);
        for door in proxies.map(|one| one.address).filter(is_reached) {
            let to = match door {
                // A socket on `::` takes IPv4 as well.
                SocketAddr::V6(door) if door.ip().is_unspecified() => String::new(),
                _ => at(Family::of(door.ip()), door),
            };
            text.line(&format!("{to}tcp dport {} accept", door.port()));
        }
        if answerers(kit).next().is_some() {
            text.comment("The answerer.");
        }
        for door in answerers(kit) {
            let (to, port) = (at(Family::of(door.ip()), door), door.port());
            text.line(&format!("{to}meta l4proto {{ tcp, udp }} th dport {port} accept"));
        }
        text.comment(
            "What else clients need of the gateway stands in files of these names, which pullgate \
             never writes, such as DHCP and a ping:",
        );
        text.example("udp dport 67 accept");
        text.example("icmp type echo-request accept");
        text.line(&format!("include \"{ADDITIONS}/gateway-input*.nft\""));
    });
}

/// The answerers that clients reach.
fn answerers<'a>(kit: &Kit<'a>) -> impl Iterator<Item = SocketAddr> + use<'a> {
    let addresses = kit.settings.answerer.iter().flat_map(|answerer| &answerer.addresses);
    addresses.copied().filter(is_reached)
}

/// Whether other machines reach a listener, and its port is known.
fn is_reached(door: &SocketAddr) -> bool {
    !door.ip().is_loopback() && door.port() != 0
}

/// The match of a listener's address.
fn at(family: Family, door: SocketAddr) -> String {
    match door.ip().is_unspecified() {
        true => format!("{} ", family.only()),
        false => format!("{} daddr {} ", family.word(), door.ip()),
    }
}
