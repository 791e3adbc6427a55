//! The account from outside: sessions go in, lines and numbers come out.

use std::io::Read as _;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::Registry as Metered;
use serde_json::Value;

use super::*;
use crate::policy::{
    ClientIdentity, EndpointKind, Enforcement, Located, Location, PolicySet, Registry as Listed,
    RegistrySpec, Rules, Target,
};

const PATIENCE: Duration = Duration::from_secs(20);
const HOSTILE: &str = "secret-exfiltrated.blob.core.windows.net:443";

struct Books {
    account: Arc<Account>,
    path: PathBuf,
    folder: tempfile::TempDir,
}

impl Books {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let sink = Sink::File(path.clone());
        Self { account: Account::new(Metered::new(), sink).unwrap(), path, folder }
    }

    fn lines(&self) -> Vec<Value> {
        self.account.finish(PATIENCE);
        let text = std::fs::read_to_string(&self.path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn arrival(client: &str) -> Arrival {
    Arrival {
        client: client.parse().unwrap(),
        listener: "127.0.0.1:3128".into(),
        accepted: Instant::now(),
        first: Stage::Head,
    }
}

fn policy() -> PolicySet {
    let place = Location { file: "registries.d/contoso.toml".into(), line: 1 };
    let login = Located { value: "contoso.azurecr.io".to_owned(), place };
    let registry = Listed::new(&RegistrySpec::new("contoso".into(), login)).unwrap();
    PolicySet::new(1, Rules { registries: vec![registry], ..Rules::default() }).unwrap()
}

fn allowed(target: &str, enforcement: Enforcement) -> Allowed {
    let asker = ClientIdentity::at("10.0.0.7".parse().unwrap());
    let target = Target::parse_authority(target).unwrap();
    policy().judge_name(&target, &asker, enforcement).unwrap()
}

fn deny(account: &Arc<Account>, client: &str, target: &str, reason: Reason) -> Option<SessionId> {
    let mut open = account.open(arrival(client));
    open.ask(target);
    open.close(&Err(reason.into()))
}

fn relay(account: &Arc<Account>) -> Option<SessionId> {
    let mut open = account.open(arrival("10.0.0.7"));
    open.allow(&allowed("contoso.azurecr.io:443", Enforcement::Enforce));
    open.record.stages.enter(Stage::Relay);
    open.close(&Ok(Ending::Closed))
}

/// The value of a metric, its labels included in the name.
fn metric(account: &Account, name: &str) -> u64 {
    let text = account.metrics_text(&Status::default()).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or("0").parse().unwrap()
}

#[test]
fn a_session_is_one_line_and_one_count() {
    let books = Books::new();
    let mut open = books.account.open(arrival("::ffff:10.0.0.7"));
    open.admit().unwrap();
    open.allow(&allowed("contoso.azurecr.io:443", Enforcement::Enforce));
    open.record.volume.down.spliced = 5;
    let reported = open.close(&Ok(Ending::Closed)).unwrap();
    assert_eq!(open.close(&Err(Reason::Draining.into())), Some(reported));
    drop(open);
    let lines = books.lines();
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["id"], reported.to_string());
    assert_eq!(lines[0]["client"], "10.0.0.7");
    assert_eq!(lines[0]["registry"], "contoso");
    let sessions = "pullgate_sessions_total{endpoint=\"login\",outcome=\"relayed\",\
        reason=\"none\",registry=\"contoso\"}";
    assert_eq!(metric(&books.account, sessions), 1);
    let bytes = "pullgate_relayed_bytes_total{direction=\"down\",endpoint=\"login\",\
        path=\"splice\",registry=\"contoso\"}";
    assert_eq!(metric(&books.account, bytes), 5);
}

#[test]
fn repeated_denials_are_folded_under_the_firsts_id() {
    let books = Books::new();
    let account = &books.account;
    let first = deny(account, "10.0.0.7", HOSTILE, Reason::StorageAccount).unwrap();
    for _ in 0..4 {
        let reported = deny(account, "10.0.0.7", HOSTILE, Reason::StorageAccount);
        assert_eq!(reported, Some(first));
    }
    let others = [
        deny(account, "10.0.0.8", HOSTILE, Reason::StorageAccount),
        deny(account, "10.0.0.7", "example.com:443", Reason::HostNotAllowed),
        deny(account, "10.0.0.7", HOSTILE, Reason::SniMismatch),
        relay(account),
        relay(account),
    ];
    let mut ids: Vec<String> = others.iter().map(|id| id.unwrap().to_string()).collect();
    ids.insert(0, first.to_string());
    let lines = books.lines();
    let found: Vec<&str> = lines[..6].iter().map(|line| line["id"].as_str().unwrap()).collect();
    assert_eq!(found, ids);
    assert_eq!(lines.len(), 7);
    assert_eq!(lines[6]["id"], first.to_string());
    assert_eq!(lines[6]["repeated"], 4);
    assert_eq!(lines[6]["target"], HOSTILE);
    let sessions = "pullgate_sessions_total{endpoint=\"none\",outcome=\"denied\",\
        reason=\"storage-account\",registry=\"none\"}";
    assert_eq!(metric(account, sessions), 6);
}

/// An idle tunnel keeps its account; all that it keeps may take 4 KiB.
#[test]
fn an_open_account_is_small() {
    let kept = size_of::<Record>() + size_of::<Open>() + ListedSession::HEAP;
    assert!(kept <= 1_024, "{kept} bytes");
}

#[test]
fn what_was_relayed_is_never_folded() {
    let books = Books::new();
    for _ in 0..3 {
        let mut open = books.account.open(arrival("10.0.0.7"));
        open.record.stages.enter(Stage::Relay);
        open.close(&Err(Reason::PolicyRevoked.into()));
    }
    assert_eq!(books.lines().len(), 3);
}

#[test]
fn folds_close_after_their_window_and_are_bounded() {
    let books = Books::new();
    let mut folds = dedup::Dedup::default();
    let now = Instant::now();
    let open = books.account.open(arrival("10.0.0.7"));
    let kind = |count: u32| {
        let client = std::net::Ipv4Addr::from(0x0a00_0000 + count).to_string();
        let mut open = books.account.open(arrival(&client));
        open.ask(&format!("{count}.example:443"));
        dedup::DenialKey::of(&open.record, Outcome::Denied, "host-not-allowed")
    };
    for count in 0..10_000 {
        folds.open(kind(count), &open.record, now);
    }
    assert_eq!(folds.len(), 4_096);
    assert_eq!(folds.repeat(&kind(1), open.record.started), Some(open.record.id));
    assert_eq!(folds.repeat(&kind(9_999), open.record.started), None);
    let mut taken = Vec::new();
    folds.close_until(now, |line, repeated| taken.push((line.to_vec(), repeated)));
    assert!(taken.is_empty());
    let closes = folds.next_close().unwrap();
    folds.close_until(closes, |line, repeated| taken.push((line.to_vec(), repeated)));
    assert_eq!(taken.len(), 1);
    assert_eq!(taken[0].1, 1);
    assert_eq!(folds.len(), 0);
    assert_eq!(folds.repeat(&kind(1), open.record.started), None);
}

#[test]
fn a_stalled_reader_blocks_no_session_and_every_loss_is_counted() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let outlet = Outlet::of(writer.into(), None);
    let account = Account::with_outlet(Metered::new(), outlet, OnFull::GoOn).unwrap();
    let (mut kept, mut lost, mut lost_denials) = (0u64, 0u64, 0u64);
    // The writer may take one queue full of lines before it stalls; the second one stays.
    for count in 0..80_000u32 {
        let target = format!("{count}.blob.core.windows.net:443");
        if relay(&account).is_some() {
            kept += 1;
            continue;
        }
        lost += 1;
        // Of one client, they would be folded.
        let client = std::net::Ipv4Addr::from(0x0a00_0000 + count).to_string();
        if deny(&account, &client, &target, Reason::StorageAccount).is_some() {
            kept += 1;
        } else {
            assert!(kept > 20_000, "denials have as much room again");
            (lost, lost_denials) = (lost + 1, lost_denials + 1);
        }
    }
    assert!(lost_denials > 0 && lost_denials < lost / 2);
    assert_eq!(metric(&account, "pullgate_audit_dropped_total"), lost);
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        std::fs::File::from(reader).read_to_string(&mut text).unwrap();
        text
    });
    account.finish(PATIENCE);
    let text = reading.join().unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let reported: u64 = lines.iter().filter_map(|line| line["dropped"].as_u64()).sum();
    let reported_denials: u64 =
        lines.iter().filter_map(|line| line["dropped-denied"].as_u64()).sum();
    assert_eq!((reported, reported_denials), (lost, lost_denials));
    let sessions = lines.iter().filter(|line| line.get("outcome").is_some()).count();
    assert_eq!(sessions as u64, kept);
}

#[test]
fn ever_new_hosts_of_one_client_are_folded_after_some_lines() {
    let books = Books::new();
    let names = |number: u32| format!("{number}.blob.core.windows.net:443");
    let reported: Vec<_> = (0..10_000)
        .map(|number| {
            deny(&books.account, "10.0.0.7", &names(number), Reason::StorageAccount).unwrap()
        })
        .collect();
    // Another client, and another reason, have their own lines.
    deny(&books.account, "10.0.0.8", &names(1), Reason::StorageAccount);
    deny(&books.account, "10.0.0.7", "example.com:443", Reason::HostNotAllowed);
    let lines = books.lines();
    let first = dedup::LINES as usize;
    let (folded, single): (Vec<_>, Vec<_>) =
        lines.iter().partition(|line| line.get("repeated").is_some());
    assert_eq!(single.len(), first + 1 + 2);
    let [folded] = folded.as_slice() else { panic!("{folded:?}") };
    // Deduplicated denials have the id of the line that counts them.
    assert!(reported[first..].iter().all(|id| folded["id"] == id.to_string()));
    assert_eq!(folded["repeated"], 10_000 - first as u64 - 1);
    assert_eq!(folded["samples"].as_array().unwrap().len(), 8);
    assert_eq!(folded["samples"][0], names(first as u32 + 1));
    assert_eq!(folded["reason"], "storage-account");
    assert!(folded.get("target").is_none());
}

#[test]
fn connections_without_a_byte_are_folded() {
    let books = Books::new();
    for _ in 0..200 {
        let failure = Failure { side: Side::Client, cause: Cause::ClientAborted };
        books.account.open(arrival("10.0.0.9")).close(&Err(Stop::Failed(failure)));
    }
    let lines = books.lines();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!((&lines[1]["outcome"], &lines[1]["repeated"]), (&"failed".into(), &199.into()));
}

#[test]
fn denials_do_not_fill_the_share_of_sessions() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let outlet = Outlet::of(writer.into(), None);
    let account = Account::with_outlet(Metered::new(), outlet, OnFull::Stop).unwrap();
    // The writer takes some of them and stalls; the others fill their share.
    for client in 0..100_000u32 {
        let client = std::net::Ipv4Addr::from(0x0a00_0000 + client).to_string();
        deny(&account, &client, HOSTILE, Reason::StorageAccount);
    }
    assert!(metric(&account, "pullgate_audit_dropped_total") > 0);
    account.open(arrival("10.0.0.7")).admit().unwrap();
    assert!(relay(&account).is_some());
    drop(reader);
}

#[test]
fn finishing_gives_up_on_a_reader_that_stalls() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let outlet = Outlet::of(writer.into(), None);
    let account = Account::with_outlet(Metered::new(), outlet, OnFull::GoOn).unwrap();
    while relay(&account).is_some() {}
    account.finish(Duration::from_millis(10));
    drop(reader);
}

#[test]
fn a_full_disk_is_counted_at_the_end() {
    let sink = Sink::File("/dev/full".into());
    let account = Account::new(Metered::new(), sink).unwrap();
    relay(&account);
    deny(&account, "10.0.0.7", HOSTILE, Reason::StorageAccount);
    account.finish(PATIENCE);
    assert_eq!(metric(&account, "pullgate_audit_dropped_total"), 2);
    assert_eq!(relay(&account), None);
}

#[test]
fn lines_wait_for_a_disk_that_is_full_for_a_while() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit");
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let account = Account::with(Metered::new(), Sink::File(path.clone()), OnFull::Stop).unwrap();
    relay(&account).unwrap();
    while metric(&account, "pullgate_audit_failing") == 0 {
        std::thread::yield_now();
    }
    let mut refused = account.open(arrival("10.0.0.7"));
    assert_eq!(refused.admit().unwrap_err().reason, Reason::AuditFull);
    refused.close(&Err(Reason::AuditFull.into()));
    std::fs::remove_file(&path).unwrap();
    account.reopen_audit();
    while metric(&account, "pullgate_audit_failing") == 1 {
        std::thread::yield_now();
    }
    account.open(arrival("10.0.0.7")).admit().unwrap();
    account.finish(PATIENCE);
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let reasons: Vec<_> = lines.iter().map(|line| line["reason"].as_str()).collect();
    assert_eq!(reasons, [None, Some("audit-full"), Some("draining")]);
    assert_eq!(metric(&account, "pullgate_audit_dropped_total"), 0);
}

#[test]
fn log_services_get_a_datagram_a_line_and_may_be_restarted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let read = |service: &UnixDatagram| {
        let mut datagram = [0; 4096];
        let length = service.recv(&mut datagram).unwrap();
        String::from_utf8(datagram[..length].to_vec()).unwrap()
    };
    let ours = std::process::id();
    for (sink, begins, ends) in [
        (Sink::Syslog(path.clone()), format!("<134>pullgate[{ours}]: {{\"time\""), "}"),
        (
            Sink::Journal(path.clone()),
            "PRIORITY=6\nSYSLOG_IDENTIFIER=pullgate\nMESSAGE={\"time\"".to_owned(),
            "}\n",
        ),
    ] {
        let service = UnixDatagram::bind(&path).unwrap();
        let account = Account::new(Metered::new(), sink).unwrap();
        for _ in 0..2 {
            relay(&account).unwrap();
            let datagram = read(&service);
            assert!(datagram.starts_with(&begins) && datagram.ends_with(ends), "{datagram}");
        }
        drop(service);
        std::fs::remove_file(&path).unwrap();
        relay(&account).unwrap();
        while metric(&account, "pullgate_audit_failing") == 0 {
            std::thread::yield_now();
        }
        let service = UnixDatagram::bind(&path).unwrap();
        read(&service);
        account.finish(PATIENCE);
        assert_eq!(metric(&account, "pullgate_audit_dropped_total"), 0);
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_rotated_file_is_opened_anew() {
    let books = Books::new();
    let rotated = books.folder.path().join("audit.1");
    std::fs::rename(&books.path, &rotated).unwrap();
    books.account.reopen_audit();
    relay(&books.account);
    assert_eq!(books.lines().len(), 1);
    assert_eq!(std::fs::read(&rotated).unwrap(), b"");
}

#[test]
fn a_panic_is_one_failed_session_and_is_counted() {
    let books = Books::new();
    let mut open = books.account.open(arrival("10.0.0.7"));
    open.admit().unwrap();
    let caught = std::thread::spawn(move || {
        open.ask("contoso.azurecr.io:443");
        panic!("a fault of ours");
    });
    assert!(caught.join().is_err());
    drop(books.account.open(arrival("10.0.0.7")));
    assert_eq!(metric(&books.account, "pullgate_session_panics_total"), 1);
    assert_eq!(metric(&books.account, "pullgate_open_sessions"), 0);
    let lines = books.lines();
    assert_eq!((&lines[0]["outcome"], &lines[0]["reason"]), (&"failed".into(), &"internal".into()));
    assert_eq!((&lines[1]["outcome"], &lines[1]["reason"]), (&"denied".into(), &"draining".into()));
}

#[test]
fn a_long_session_counts_while_it_lasts_and_once() {
    let books = Books::new();
    let moved = Arc::new(AtomicU64::new(0));
    let mut open = books.account.open(arrival("10.0.0.7"));
    open.admit().unwrap();
    open.allow(&allowed("contoso.azurecr.io:443", Enforcement::Enforce));
    let watched = moved.clone();
    open.follow(Box::new(move || {
        let down = Moved { spliced: watched.load(Ordering::Relaxed), copied: 0 };
        let stalled = watched.load(Ordering::Relaxed) * 2;
        Progress { volume: Volume { up: Moved::default(), down }, stalled }
    }));
    let bytes = "pullgate_relayed_bytes_total{direction=\"down\",endpoint=\"login\",\
        path=\"splice\",registry=\"contoso\"}";
    for total in [10, 25] {
        moved.store(total, Ordering::Relaxed);
        assert_eq!(metric(&books.account, bytes), total);
        assert_eq!(metric(&books.account, "pullgate_stalled_tunnels"), 1);
        assert_eq!(metric(&books.account, "pullgate_stalled_bytes"), total * 2);
    }
    let rows = serde_json::to_value(books.account.open_sessions().rows()).unwrap();
    assert_eq!(rows[0]["target"], "contoso.azurecr.io:443");
    assert_eq!(rows[0]["bytes-down"], 25);
    assert_eq!(rows[0]["stalled-bytes"], 50);
    moved.store(40, Ordering::Relaxed);
    open.close(&Ok(Ending::Closed));
    assert_eq!(metric(&books.account, bytes), 40);
    drop(open);
    assert_eq!(metric(&books.account, bytes), 40);
    assert_eq!(books.lines()[0]["bytes-down"], 40);
}

#[test]
fn labels_are_from_closed_sets() {
    let books = Books::new();
    let account = &books.account;
    for reason in Reason::ALL {
        deny(account, "10.99.99.99", HOSTILE, *reason);
    }
    for cause in Cause::ALL {
        let mut open = account.open(arrival("10.99.99.99"));
        open.allow(&allowed(HOSTILE, Enforcement::Report));
        open.record.sni = Some(AuditText::new("secret-exfiltrated"));
        open.record.volume.up.copied = 1;
        open.close(&Err(Failure { side: Side::Upstream, cause: *cause }.into()));
    }
    relay(account);
    let text = account.metrics_text(&Status::default()).unwrap();
    assert!(!text.contains("secret") && !text.contains("10.99"), "{text}");
    let codes = |codes: &[&'static str]| codes.to_vec();
    let closed = [
        ("registry", codes(&["none", "contoso"])),
        (
            "endpoint",
            [vec!["none"], EndpointKind::ALL.iter().map(|one| one.code()).collect()].concat(),
        ),
        ("outcome", Outcome::ALL.iter().map(|one| one.code()).collect()),
        (
            "reason",
            [
                vec!["none"],
                Reason::ALL.iter().map(|one| one.code()).collect(),
                Cause::ALL.iter().map(|one| one.code()).collect(),
            ]
            .concat(),
        ),
        ("direction", codes(&["up", "down"])),
        ("path", codes(&["splice", "copy"])),
        ("stage", Stage::ALL.iter().map(|one| one.code()).collect()),
        ("version", codes(&[env!("CARGO_PKG_VERSION")])),
    ];
    let mut seen = 0;
    let labels = text.lines().filter_map(|line| line.split_once('{')?.1.split_once('}'));
    for pair in labels.flat_map(|(labels, _)| labels.split(',')) {
        let (name, value) = pair.split_once('=').unwrap();
        let value = value.trim_matches('"');
        if name != "le" {
            let (_, values) = closed.iter().find(|(label, _)| *label == name).unwrap();
            assert!(values.contains(&value), "{pair}");
            seen += 1;
        }
    }
    assert!(seen > 100);
}

#[test]
fn the_contracts_metrics_are_there() {
    let books = Books::new();
    relay(&books.account);
    let status = Status { generation: 7, stale: Some("x".into()), ..Status::default() };
    let text = books.account.metrics_text(&status).unwrap();
    let names = [
        "pullgate_sessions_total{",
        "pullgate_open_sessions 0",
        "pullgate_stage_seconds_bucket{stage=\"relay\"",
        "pullgate_policy_generation 7",
        "pullgate_policy_stale 1",
        "pullgate_audit_dropped_total 0",
        "pullgate_enforcing 1",
        "pullgate_session_panics_total 0",
        "pullgate_build_info{version=\"",
        "process_open_fds ",
        "process_cpu_seconds_total ",
    ];
    for name in names {
        assert!(text.contains(name), "{name} in {text}");
    }
}

#[test]
fn the_tasks_of_every_runtime_count() {
    let books = Books::new();
    let made = tokio::runtime::Builder::new_current_thread;
    let (here, there) = (made().build().unwrap(), made().build().unwrap());
    for runtime in [&here, &there, &there] {
        drop(runtime.spawn(std::future::pending::<()>()));
    }
    let tasks = || here.block_on(async { metric(&books.account, "pullgate_runtime_tasks") });
    assert_eq!(tasks(), 1);
    books.account.count_tasks_of(vec![there.handle().clone()]);
    assert_eq!(tasks(), 3);
}
