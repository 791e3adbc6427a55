//! The rules of a gateway: what its clients send is brought to the gate, or dropped.

use std::net::SocketAddr;

use super::text::Text;
use super::{Doors, Family, Kit, MARK, NEIGHBOURS, Word, place, set};
use crate::config::{Capture, Mode};

pub(super) fn rules(kit: &Kit<'_>, inside: &[Word], doors: &Doors) -> String {
    let mut text = Text::default();
    kit.heading(
        &mut text,
        &["For a gateway: whoever is behind these interfaces has no way out but the gate, and needs \
           no setting for it. The gateway's own programs are not bound."],
    );
    let quoted = inside.iter().map(|Word(name)| format!("\"{name}\""));
    text.line(&format!("define inside = {}", set(quoted)));
    text.comment("The ports of the policy's hosts.");
    text.line(&format!("define ports = {}", set(kit.ports())));
    if kit.capture == Capture::Tproxy {
        text.line(&format!("define captured = {MARK}"));
    }
    text.blank();
    text.table("pullgate_gateway", |text| {
        text.comment("To the transparent listener, whatever address was dialled.");
        match kit.capture {
            Capture::Redirect => redirect(text, doors),
            Capture::Tproxy => tproxy(text, doors),
        }
        text.blank();
        text.comment("What clients may send to the gateway itself.");
        input(text, kit, doors);
        text.blank();
        text.comment("What they may send through it: nothing.");
        text.chain("forward", "filter hook forward priority filter; policy accept", |text| {
            text.line("iifname $inside drop");
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
    text.chain("input", "filter hook input priority filter; policy accept", |text| {
        text.line("iifname $inside ct state established,related accept");
        text.line(&format!("iifname $inside {NEIGHBOURS}"));
        text.comment("The gate.");
        match kit.capture {
            Capture::Redirect => doors.iter().for_each(|(family, door)| {
                text.line(&format!("{} tcp dport {} accept", new_to(family, door), door.port()));
            }),
            Capture::Tproxy => text.line("iifname $inside ct state new meta mark $captured accept"),
        }
        let proxies = kit.settings.listeners.iter().filter(|one| one.mode == Mode::Connect);
        for door in proxies.map(|one| one.address).filter(is_reached) {
            let family = Family::of(door.ip());
            text.line(&format!("{} tcp dport {} accept", new_to(family, door), door.port()));
        }
        if let Some(answerer) = &kit.settings.answerer {
            text.comment("The answerer.");
            for door in answerer.addresses.iter().filter(|one| is_reached(one)) {
                let to = new_to(Family::of(door.ip()), *door);
                let port = door.port();
                text.line(&format!("{to} meta l4proto {{ tcp, udp }} th dport {port} accept"));
            }
        }
        text.comment("Add what clients need of the gateway beside this, such as DHCP and a ping:");
        text.example("iifname $inside udp dport 67 accept");
        text.example("iifname $inside icmp type echo-request accept");
        text.line("iifname $inside drop");
    });
}

/// Whether other machines reach a listener, and its port is known.
fn is_reached(door: &SocketAddr) -> bool {
    !door.ip().is_loopback() && door.port() != 0
}

/// The match of a new connection of a client's to a listener.
fn new_to(family: Family, door: SocketAddr) -> String {
    let to = match door.ip().is_unspecified() {
        true => family.only().to_owned(),
        false => format!("{} daddr {}", family.word(), door.ip()),
    };
    format!("iifname $inside ct state new {to}")
}
