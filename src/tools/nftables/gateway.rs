//! The rules for a gateway: the traffic of its clients is redirected to the gate or dropped.

use std::net::SocketAddr;

use super::kit::{ADDITIONS, CLOSED, Doors, Family, Kit, MARK, Word, place, set};
use super::text::Text;
use crate::config::{Capture, Mode};

/// ICMPv6 that IPv6 needs for neighbour and router discovery, and that switches with multicast
/// snooping need to find the gateway (RFC 4890 §4.4.1).
const NEIGHBOURS: &str = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, \
                          nd-router-solicit, mld-listener-query } accept";

pub(super) fn rules(kit: &Kit<'_>, inside: &[Word], outside: &[Word], doors: &Doors) -> String {
    let mut text = Text::default();
    kit.heading(
        &mut text,
        &["For a gateway: clients behind the inside interfaces can connect to the gate only, and need \
           no setting. Packets from interfaces that are not named here are dropped, and nothing is \
           forwarded. The gateway's own programs are not restricted."],
    );
    let quoted = |names: &[Word]| -> Vec<String> {
        names.iter().map(|Word(name)| format!("\"{name}\"")).collect()
    };
    text.comment("The interfaces of clients.");
    text.line(&format!("define inside = {}", set(quoted(inside))));
    text.comment("All other interfaces that this machine needs.");
    text.line(&format!("define outside = {}", set(quoted(outside))));
    let itself = std::iter::once("\"lo\"".to_owned());
    text.line(&format!("define trusted = {}", set(itself.chain(quoted(outside)))));
    text.comment("The ports of the hosts in the policy.");
    text.line(&format!("define ports = {}", set(kit.ports())));
    if kit.capture == Capture::Tproxy {
        text.line(&format!("define captured = {MARK}"));
    }
    text.blank();
    text.delete_table(CLOSED);
    text.table("pullgate_gateway", |text| {
        text.comment("Redirects connections to the transparent listener, whatever their destination.");
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
            "Nothing is forwarded, and forwarded connections from before these rules end. Put additions \
             into files with these names, which pullgate never writes.",
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
        "Packets of clients to the gateway itself. The route to their source must lead over the same \
         interface: replies to a forged source would send data to the owner of that address.",
    );
    text.chain("input", "filter hook input priority filter; policy drop", |text| {
        text.line(&format!("iifname $inside {NEIGHBOURS}"));
        text.line("iifname $inside fib saddr . iif oif exists jump from_inside");
        text.comment("The listeners are for clients only.");
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
        text.comment(
            "Everything else from loopback and from outside. Other interfaces are dropped.",
        );
        text.line("iifname $trusted accept");
    });
}

/// Established connections of clients are not accepted in general: those from before the rules must
/// end.
fn from_inside(text: &mut Text, kit: &Kit<'_>, doors: &Doors) {
    text.rules_of("from_inside", |text| {
        text.comment("Replies to connections of the gateway itself, and ICMP errors for accepted packets.");
        text.line("ct state established ct direction reply accept");
        text.line("ct state related accept");
        text.comment("The gate.");
        match kit.capture {
            Capture::Redirect => doors.iter().for_each(|(family, door)| {
                text.line(&format!("{}tcp dport {} accept", at(family, door), door.port()));
            }),
            Capture::Tproxy => text.line("meta mark $captured accept"),
        }
        let proxies = kit
            .settings
            .listeners
            .iter()
            .filter(|one| matches!(one.mode, Mode::Connect | Mode::Mirror));
        for door in proxies.map(|one| one.address).filter(is_reached) {
            let to = match door {
                // A socket on `::` also accepts IPv4.
                SocketAddr::V6(door) if door.ip().is_unspecified() => String::new(),
                _ => at(Family::of(door.ip()), door),
            };
            text.line(&format!("{to}tcp dport {} accept", door.port()));
        }
        if answerers(kit).next().is_some() {
            text.comment("The DNS server of the gate.");
        }
        for door in answerers(kit) {
            let (to, port) = (at(Family::of(door.ip()), door), door.port());
            text.line(&format!("{to}meta l4proto {{ tcp, udp }} th dport {port} accept"));
        }
        text.comment(
            "Put additions into files with these names, which pullgate never writes, for example for DHCP \
             and ping:",
        );
        text.example("udp dport 67 accept");
        text.example("icmp type echo-request accept");
        text.line(&format!("include \"{ADDITIONS}/gateway-input*.nft\""));
    });
}

/// The DNS servers that clients can reach.
fn answerers<'a>(kit: &Kit<'a>) -> impl Iterator<Item = SocketAddr> + use<'a> {
    let addresses = kit.settings.answerer.iter().flat_map(|answerer| &answerer.addresses);
    addresses.copied().filter(is_reached)
}

/// Returns whether other machines can reach a listener and its port is known.
fn is_reached(door: &SocketAddr) -> bool {
    !door.ip().is_loopback() && door.port() != 0
}

/// Returns the match of a listener's address.
fn at(family: Family, door: SocketAddr) -> String {
    match door.ip().is_unspecified() {
        true => format!("{} ", family.only()),
        false => format!("{} daddr {} ", family.word(), door.ip()),
    }
}
