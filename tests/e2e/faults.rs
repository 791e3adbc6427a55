//! Faults in the environment of a gate, and what is lost. The tests print the figures:
//! `cargo test --test e2e faults:: -- --nocapture --include-ignored`.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};

use crate::exhaustion::{Holder, hold, hold_with};
use crate::harness::{
    Blobs, Daemon, Gate, Lab, Policy, Way, bound_to_this_thread, dnsmasq, find, relayed_or_aborted,
    wait_until,
};
use crate::mirror;

const V2: &str = "curl -sS -o /dev/null https://contoso.azurecr.io/v2/";
const LAYER: &str = "https://contoso.eastus.data.azurecr.io/layer";

fn passes(lab: &Lab, gate: &Gate) -> bool {
    lab.sh(Way::Through(gate), V2).status.success()
}

#[test]
fn the_resolver_goes_away_and_comes_back() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let records = [("contoso.azurecr.io", "127.0.1.1")];
    let server = dnsmasq(&lab, &records);
    let dns = "[dns]\nservers = [\"127.0.0.53\"]\nstale-ms = 4000\n";
    let gate = lab.gate(&Policy::of(&["contoso"]).with_dns(dns));
    assert!(passes(&lab, &gate));
    drop(server);
    let gone = Instant::now();
    let mut pulls = 0;
    // An answer has a TTL of one second; then it is stale and can be used for four more.
    wait_until("an answer that has run out is used", || {
        assert!(passes(&lab, &gate), "after {:?}", gone.elapsed());
        pulls += 1;
        (gate.metric("pullgate_stale_answers_total", &[]) > 0.0).then_some(())
    });
    gate.audited_fact("dns", "stale");
    let ran = wait_until("no answer is used for ever", || {
        pulls += 1;
        Some(lab.sh(Way::Through(&gate), &format!("{V2} -v"))).filter(|ran| !ran.status.success())
    });
    assert!(ran.text.contains("[lookup-"), "{}", ran.text);
    println!("DNS gone: {pulls} pulls went on for {:?}, none was lost", gone.elapsed());
    let _server = dnsmasq(&lab, &records);
    let back = Instant::now();
    wait_until("the resolver is believed again", || passes(&lab, &gate).then_some(()));
    println!("DNS back: the first pull {:?} later", back.elapsed());
}

#[test]
fn dead_addresses_of_several_cost_a_quarter_of_a_second_each() {
    let lab = Lab::new(Blobs::DataEndpoint);
    // The first address refuses connections; the second drops packets.
    nft(&[
        "add table inet dead",
        "add chain inet dead out { type filter hook output priority 0; }",
        "add rule inet dead out ip daddr 127.0.1.98 drop",
    ]);
    let dns =
        "[dns.hosts]\n\"contoso.azurecr.io\" = [\"127.0.1.97\", \"127.0.1.98\", \"127.0.1.1\"]\n";
    let gate = lab.gate(&Policy::of(&["contoso"]).with_dns(dns));
    assert!(passes(&lab, &gate));
    let line = gate.audited(&[("outcome", "relayed")]);
    assert_eq!(line["upstream"], "127.0.1.1:443", "{line}");
    println!("two of three addresses dead: dialled in {} ms", line["ms"]["dial"]);
}

#[test]
fn a_disk_that_fills_loses_no_line_and_no_session() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let ballast = small_disk(&lab);
    let gate = lab.gate(&Policy::of(&["contoso"]));
    let filled = fill(&ballast);
    for _ in 0..12 {
        lab.sh(Way::Through(&gate), V2).succeeded();
    }
    wait_until("the audit cannot be written", || {
        (gate.metric("pullgate_audit_failing", &[]) == 1.0).then_some(())
    });
    lab.sh(Way::Through(&gate), V2).succeeded();
    let before = gate.audit().len();
    fs::remove_file(&filled).unwrap();
    let lines = gate.audit_of_all();
    println!("disk full: {} lines waited, {} were lost", lines.len() - before, 13 - lines.len());
    assert_eq!(lines.len(), 13, "every line is whole: one torn in the middle would not parse");
    assert!(before < 13, "the disk was full");
    assert_eq!(gate.metric("pullgate_audit_dropped_total", &[]), 0.0);
}

#[test]
fn on_full_stop_takes_no_session_that_would_go_unrecorded() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let ballast = small_disk(&lab);
    let gate = lab.gate(&Policy::of(&["contoso"]).with_more("on-full = \"stop\"\n"));
    let filled = fill(&ballast);
    let refused = wait_until("a session is refused", || {
        Some(lab.sh(Way::Through(&gate), V2)).filter(|ran| !ran.status.success())
    });
    assert!(refused.text.contains("503"), "{}", refused.text);
    let shown = lab.sh(Way::Through(&gate), &format!("{V2} -v")).failed();
    assert!(
        shown.text.contains("cannot write its audit; try later [audit-full "),
        "{}",
        shown.text
    );
    fs::remove_file(&filled).unwrap();
    wait_until("sessions pass again", || passes(&lab, &gate).then_some(()));
    gate.audited(&[("reason", "audit-full")]);
    assert_eq!(gate.metric("pullgate_audit_dropped_total", &[]), 0.0);
}

/// Issue 16, point 12: SIGXFSZ ended the gate, whatever `on-full` said.
#[test]
fn a_limit_on_file_sizes_does_not_end_the_gate() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let mut limited = bound_to_this_thread("prlimit");
    limited.args(["--fsize=8192:8192", env!("CARGO_BIN_EXE_pullgate")]);
    let gate = Gate::start_by(limited, lab.dir(), &Policy::of(&["contoso"]));
    wait_until("the audit reaches its limit", || {
        assert!(passes(&lab, &gate), "{}", gate.log());
        gate.log().contains("the audit cannot be written").then_some(())
    });
    assert!(passes(&lab, &gate));
    fs::rename(gate.audit_file(), lab.dir().join("rotated")).unwrap();
    gate.signal("USR1");
    gate.audited(&[("registry", "contoso")]);
    assert_eq!(gate.metric("pullgate_audit_dropped_total", &[]), 0.0);
}

/// Mounts a tiny disk for the gate's files. Returns the path of a file to fill it with.
fn small_disk(lab: &Lab) -> std::path::PathBuf {
    let dir = lab.dir().join("gate");
    fs::create_dir(&dir).unwrap();
    mount(Some("tmpfs"), &dir, Some("tmpfs"), MsFlags::empty(), Some("size=128k")).unwrap();
    dir.join("ballast")
}

/// Writes until the disk is full.
fn fill(ballast: &std::path::Path) -> std::path::PathBuf {
    let mut file = File::create(ballast).unwrap();
    while file.write_all(&[0; 512]).is_ok() {}
    ballast.to_owned()
}

#[test]
fn a_clock_that_jumps_disturbs_no_session() {
    let lab = Lab::new(Blobs::DataEndpoint);
    File::create(lab.served("contoso").join("layer")).unwrap().set_len(32 << 20).unwrap();
    let dir = lab.dir().join("gate");
    fs::create_dir(&dir).unwrap();
    let clock = dir.join("clock");
    fs::write(&clock, "+0").unwrap();
    let library = fs::read_dir("/usr/lib")
        .unwrap()
        .map(|entry| entry.unwrap().path().join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.exists());
    let mut command = bound_to_this_thread("env");
    command.arg(format!("LD_PRELOAD={}", library.expect("make test installs faketime").display()));
    command.arg(format!("FAKETIME_TIMESTAMP_FILE={}", clock.display()));
    // The monotonic clock never jumps with the wall clock.
    command.args(["FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1"]);
    command.arg(env!("CARGO_BIN_EXE_pullgate"));
    let gate = Gate::start_by(command, lab.dir(), &Policy::of(&["contoso"]));

    let to = lab.dir().join("pulled");
    let line = ["curl", "-sS", "--limit-rate", "16M", "-o", to.to_str().unwrap(), LAYER];
    let mut pull = lab.command(Way::Through(&gate), &line).spawn().unwrap();
    wait_until("the layer streams", || {
        fs::metadata(&to).is_ok_and(|file| file.len() > 1 << 20).then_some(())
    });
    let mut years = HashSet::new();
    for jump in ["+400d", "-400d", "+0"] {
        fs::write(&clock, jump).unwrap();
        assert!(passes(&lab, &gate), "after {jump}");
        wait_until("the session is recorded", || {
            let lines = gate.audit();
            let found = lines.last().map(|line| line["time"].as_str().unwrap()[..4].to_owned());
            found
                .filter(|year| !years.contains(year) || jump == "+0")
                .map(|year| years.insert(year))
        });
    }
    assert!(wait_until("the pull ends", || pull.try_wait().unwrap()).success());
    let lines = gate.audit_of_all();
    let ids: HashSet<&str> = lines.iter().map(|line| line["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), lines.len(), "ids are unique whatever the clock says");
    assert!(lines.iter().all(relayed_or_aborted), "{lines:?}");
    assert!(lines.iter().all(|line| line["ms"]["relay"].as_f64().unwrap() < 60_000.0));
    println!("clock +400 days, -400 days: {} sessions, none lost", lines.len());
}

#[test]
fn killed_under_load_it_starts_again_and_loses_what_was_open() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let policy = Policy::of(&["contoso"]);
    let mut gate = lab.gate(&policy);
    let mut served = 0;
    let mut recorded = 0;
    for _ in 0..3 {
        for _ in 0..5 {
            lab.sh(Way::Through(&gate), V2).succeeded();
            served += 1;
        }
        let killed = Instant::now();
        gate.signal("KILL");
        assert!(!gate.ended().success());
        assert!(!passes(&lab, &gate), "nobody serves");
        recorded = gate.audit().len();
        drop(gate);
        gate = lab.gate(&policy);
        println!("killed: served again after {:?}", killed.elapsed());
    }
    println!("killed 3 times: {served} sessions, {} of their lines lost", served - recorded);
    assert!(served - recorded < served / 2, "at most the last 20 ms are lost");
    lab.sh(Way::Through(&gate), V2).succeeded();
}

#[test]
#[ignore = "takes more than a minute: make faults"]
fn a_partition_of_a_minute_cuts_no_pull() {
    let lab = Lab::new(Blobs::DataEndpoint);
    File::create(lab.served("contoso").join("layer")).unwrap().set_len(256 << 20).unwrap();
    let gate = lab.gate(&Policy::of(&["contoso"]));
    let to = lab.dir().join("pulled");
    let line = ["curl", "-sS", "-o", to.to_str().unwrap(), LAYER];
    let mut pull: Daemon = lab.daemon_through(&gate, "curl", &line);
    let pulled = || fs::metadata(&to).map_or(0, |file| file.len());
    wait_until("the layer streams", || (pulled() > 8 << 20).then_some(()));
    nft(&[
        "add table inet partition",
        "add chain inet partition out { type filter hook output priority 0; }",
        "add rule inet partition out ip daddr 127.0.1.2 drop",
        "add rule inet partition out ip saddr 127.0.1.2 drop",
    ]);
    let before = pulled();
    // The fault itself takes a minute; this is not a wait for an event.
    std::thread::sleep(Duration::from_secs(60));
    let during = pulled() - before;
    nft(&["delete table inet partition"]);
    let mended = Instant::now();
    assert!(pull.ended().is_none(), "{}", pull.log());
    // TCP doubles its retransmission timeout: after a minute, the next attempt can be 50 s away.
    let status = loop {
        if let Some(status) = pull.ended() {
            break status;
        }
        assert!(mended.elapsed() < Duration::from_secs(120), "the pull does not go on");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(status.success(), "{}", pull.log());
    assert_eq!(pulled(), 256 << 20);
    println!(
        "partition of a minute: {during} bytes came during it; whole {:?} after it",
        mended.elapsed()
    );
}

fn nft(commands: &[&str]) {
    for command in commands {
        let ran = Command::new(find("nft")).arg(command).status().unwrap();
        assert!(ran.success(), "nft {command}");
    }
}

/// How many tunnels of one address do not read, and the least share of its pace that a pull beside
/// them keeps.
const LAZY: [usize; 2] = [350, 1000];
const LEAST_PACE: f64 = 0.8;

#[test]
#[ignore = "takes more than a minute, and needs the machine for itself: make faults"]
fn a_pull_beside_tunnels_that_do_not_read_keeps_its_pace() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let gate = lab.gate(&Policy::of(&["contoso"]));
    keeps_its_pace(&lab, &gate, |count| hold("lazy", 10, count));
}

#[test]
#[ignore = "takes more than a minute, and needs the machine for itself: make faults"]
fn a_pull_beside_requests_that_do_not_read_keeps_its_pace() {
    let lab = Lab::new(Blobs::DataEndpoint);
    let image = lab.push("contoso.azurecr.io/team/app:v1", 1, &[48 << 20]);
    let gate = lab.gate(&mirror::policy(&lab, "", "blobs = \"relay\"\ndefault = true"));
    let layer = format!("/v2/team/app/blobs/{}", image.layers[0].0);
    keeps_its_pace(&lab, &gate, |count| hold_with("mirror", 10, count, &layer));
}

/// Pulls a layer beside clients that do not read: all of one address, and enough that what waits for
/// them would fill the kernel's memory for sockets.
fn keeps_its_pace(lab: &Lab, gate: &Gate, hold: impl Fn(usize) -> Holder) {
    File::create(lab.served("contoso").join("layer")).unwrap().set_len(512 << 20).unwrap();
    // The median of several pulls, in MiB/s.
    let pace = || {
        let line = format!("curl -sS -o /dev/null -w %{{speed_download}} {LAYER}");
        let mut paces: Vec<f64> = (0..7)
            .map(|_| {
                let said = lab.sh(Way::Through(gate), &line).succeeded().stdout();
                said.trim().parse::<f64>().unwrap() / (1 << 20) as f64
            })
            .collect();
        paces.sort_by(f64::total_cmp);
        paces[3]
    };
    let alone = pace();
    for count in LAZY {
        let before = gate.metric("pullgate_sessions_total", &["reason=\"tcp-memory\""]);
        let (lazy, (open, refused)) = hold(count).ready();
        assert_eq!((open, refused), (count, 0));
        let at_once = pace();
        // The servers are on the same machine, and their buffers count too.
        let ended = || gate.metric("pullgate_sessions_total", &["reason=\"tcp-memory\""]) - before;
        wait_until("all are known to have stalled", || {
            let stalled = gate.metric("pullgate_stalled_tunnels", &[]) + ended();
            (stalled >= count as f64 * 0.9).then_some(())
        });
        let later = pace();
        let held = gate.metric("pullgate_stalled_bytes", &[]) / (1 << 20) as f64;
        println!(
            "{count} clients that do not read: {} ended, the rest holds {held:.0} MiB; a pull has \
             {at_once:.0} MiB/s at once and {later:.0} later, {alone:.0} alone",
            ended()
        );
        assert!(at_once.min(later) >= LEAST_PACE * alone);
        drop(lazy);
        wait_until("they are gone", || {
            (gate.metric("pullgate_open_sessions", &[]) == 0.0).then_some(())
        });
    }
}
