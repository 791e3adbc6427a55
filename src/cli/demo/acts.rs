//! The acts of the demonstration, in order. Each makes requests and adds a row for each result. An
//! error means that the demonstration itself failed, never that a row has an unexpected result.

use super::show::{showing, tell};
use super::stage::DemoStage;
use crate::policy::Reason;
use crate::tools::demo::folder::Folder;
use crate::tools::demo::image::Image;
use crate::tools::demo::probe::{self, Handshake};
use crate::tools::demo::progress::PullProgress;
use crate::tools::demo::pull::{PullError, PullRoute, Puller};
use crate::tools::demo::registry::DataEndpoints;
use crate::tools::demo::table::{Table, TableRow};
use crate::tools::demo::{
    DemoError, FOREIGN_DATA, FOREIGN_LOGIN, IMAGE, LATER_LOGIN, LOGIN, SMALL_IMAGE, STORAGE, TAG,
    mebibytes,
};
use anyhow::Context;
use rustls::AlertDescription;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// Number of pulls by each route. The fastest counts.
const ROUNDS: usize = 3;
/// No round begins after this time, so that slow machines also finish within a minute.
const ROUNDS_BUDGET: Duration = Duration::from_secs(12);
/// A revoked session must end within this time.
const REVOCATION_LIMIT: Duration = Duration::from_secs(1);

const PULLED: &str = "pulled, every byte correct";
const ALERT: &str = "200, then TLS alert access_denied";
const SWITCHED_OFF: &str = "the pull fails; 403 storage-account, with the remedy";
const CUT: &str = "closed within a second";
const GOES_ON: &str = "stays open";

/// The throughput of the pulls.
pub(super) struct Rates {
    /// Directly from the registry, in MiB/s.
    direct: f64,
    /// Through the gate, in MiB/s.
    gated: f64,
    /// Bytes that the gate relayed by splice(2) and by copying.
    relayed: (u64, u64),
}

impl Rates {
    pub(super) fn render(&self) -> String {
        let Self { direct, gated, relayed: (spliced, copied) } = self;
        format!(
            "Throughput of the pull, with client, gate and registry on this machine:\n\
             {:>10.0} MiB/s  without the gate\n\
             {:>10.0} MiB/s  through the gate ({:.2} of the direct rate)\n\
             The gate relayed {:.0} MiB by splice(2) and {:.0} MiB by copying.\n",
            direct,
            gated,
            gated / direct,
            mebibytes(*spliced),
            mebibytes(*copied),
        )
    }
}

/// Pulls the image alternately without and through the gate.
pub(super) async fn pull(stage: &DemoStage, table: &mut Table) -> anyhow::Result<Option<Rates>> {
    let image = stage.registry.image();
    let named = format!("{LOGIN}/{IMAGE}:{TAG}");
    let (mut direct, mut gated) = (Duration::MAX, Ok(Duration::MAX));
    let begun = Instant::now();
    for round in 1..=ROUNDS {
        if begun.elapsed() > ROUNDS_BUDGET {
            break;
        }
        let by_address = format!("{}/{IMAGE}:{TAG}", stage.registry.login());
        let what = format!("pull {round} of {ROUNDS}, without the gate");
        let took = pull_once(stage, PullRoute::Direct, &what, &by_address, image).await;
        direct = direct.min(took.context("cannot pull from the embedded registry")?);

        let what = format!("pull {round} of {ROUNDS}, through the gate");
        let way = PullRoute::Proxy(stage.gate.proxy());
        match (pull_once(stage, way, &what, &named, image).await, &mut gated) {
            (Ok(took), Ok(best)) => *best = took.min(*best),
            (Err(error), _) => {
                gated = Err(error);
                break;
            }
            (Ok(_), Err(_)) => {}
        }
    }

    table.part("What the policy allows");
    let layers = image.layers.len();
    let asked = format!("pull {named} ({layers} layers, {:.0} MiB)", mebibytes(image.size()));
    table.add(pulled(asked, &named, gated.as_ref().map(|_| ())));
    let Ok(gated) = gated else { return Ok(None) };
    let rate = |took: Duration| mebibytes(image.size()) / took.as_secs_f64().max(0.001);
    let relayed = stage.gate.relayed().await?;
    Ok(Some(Rates { direct: rate(direct), gated: rate(gated), relayed }))
}

/// Requests targets that the policy must deny.
pub(super) async fn try_the_exits(stage: &DemoStage, table: &mut Table) {
    tell("requesting denied targets");
    table.part("What the policy denies");
    for (what, host, reason) in [
        ("a storage account", STORAGE, Reason::StorageAccount),
        ("another registry", FOREIGN_LOGIN, Reason::OtherRegistry),
        ("another data endpoint", FOREIGN_DATA, Reason::OtherRegistry),
    ] {
        table.add(refusal(stage, what, &format!("{host}:443"), reason).await);
    }
    let address = stage.registry.outside().to_string();
    table.add(refusal(stage, "an IP address", &address, Reason::IpLiteral).await);

    let target = format!("{LOGIN}:443");
    table.add(TableRow {
        asked: format!("CONNECT {target}, then TLS for {STORAGE}"),
        expected: ALERT.to_owned(),
        found: match open(stage, LOGIN, STORAGE).await {
            Ok(Handshake::Done(_)) => "200, then a TLS session".to_owned(),
            Ok(Handshake::Alert(AlertDescription::AccessDenied)) => ALERT.to_owned(),
            Ok(Handshake::Alert(alert)) => format!("200, then TLS alert {alert:?}"),
            Ok(Handshake::Broken(error)) => format!("200, then {error}"),
            Err(found) => found,
        },
        read: go_reads(&target, "remote error: tls: access denied"),
    });
    table.add(TableRow {
        asked: format!("CONNECT {target}, then plain bytes"),
        expected: ALERT.to_owned(),
        found: plain_bytes(stage, &target).await,
        read: "(docker sends TLS only)".to_owned(),
    });
}

/// Turns dedicated data endpoints off, so that the layers come from a storage account.
pub(super) async fn switch_data_endpoints_off(stage: &DemoStage, table: &mut Table) {
    table.part("The same registry with dedicated data endpoints disabled");
    stage.registry.switch(DataEndpoints::Shared);
    let named = format!("{LOGIN}/{IMAGE}:{TAG}");
    let what = "pull, data endpoints switched off";
    let way = PullRoute::Proxy(stage.gate.proxy());
    let pulled = pull_once(stage, way, what, &named, stage.registry.image()).await;
    stage.registry.switch(DataEndpoints::Dedicated);

    // The client does not report the cause, so the same tunnel is requested once more.
    let (refusal, read) = ask_for_tunnel(stage, &format!("{STORAGE}:443")).await;
    let remedy = if read.contains("enable dedicated data endpoints") { "with" } else { "without" };
    let found = match pulled {
        Ok(_) => PULLED.to_owned(),
        Err(_) => format!("the pull fails; {refusal}, {remedy} the remedy"),
    };
    let asked = format!("pull {named}");
    table.add(TableRow { asked, expected: SWITCHED_OFF.to_owned(), found, read });
}

/// Adds a registry to the folder and removes it again while the gate runs.
pub(super) async fn reload(stage: &DemoStage, table: &mut Table) -> anyhow::Result<()> {
    tell("changing the policy while the gate runs");
    table.part("Policy reload while the gate runs");
    let target = format!("{LATER_LOGIN}:443");
    table.add(
        refusal(stage, "a registry not yet in the policy", &target, Reason::OtherRegistry).await,
    );

    let took = change(stage, Folder::add_later_registry).await?;
    let named = format!("{LATER_LOGIN}/{SMALL_IMAGE}:{TAG}");
    let way = PullRoute::Proxy(stage.gate.proxy());
    let what = format!("pull {SMALL_IMAGE} from {LATER_LOGIN}");
    let after = pull_once(stage, way, &what, &named, stage.registry.small_image()).await;
    let asked = format!("fabrikam.json added (in force after {took} ms), pull {named}");
    table.add(pulled(asked, &named, after.as_ref().map(|_| ())));

    let revoked = session(stage, LATER_LOGIN).await;
    let other = session(stage, LOGIN).await;
    let begun = Instant::now();
    change(stage, Folder::remove_later_registry).await?;
    let found = match revoked {
        Ok(mut session) => match probe::closed(&mut session).await {
            Ok(()) if begun.elapsed() <= REVOCATION_LIMIT => CUT.to_owned(),
            Ok(()) => format!("closed after {} ms", begun.elapsed().as_millis()),
            Err(error) => format!("still open: {error}"),
        },
        Err(found) => found,
    };
    table.add(TableRow {
        asked: format!("fabrikam.json removed: an open session with {LATER_LOGIN}"),
        expected: CUT.to_owned(),
        found,
        read: "unexpected EOF".to_owned(),
    });
    let found = match other {
        Ok(mut session) => match probe::ask(&mut session, LOGIN, "/v2/").await {
            Ok(_) => GOES_ON.to_owned(),
            Err(error) => format!("ended: {error}"),
        },
        Err(found) => found,
    };
    table.add(TableRow {
        asked: format!("at the same time: an open session with {LOGIN}"),
        expected: GOES_ON.to_owned(),
        found,
        read: String::new(),
    });
    table.add(refusal(stage, "the removed registry", &target, Reason::OtherRegistry).await);
    Ok(())
}

/// Counts the connections that reached forbidden hosts.
pub(super) fn count_escapes(stage: &DemoStage, table: &mut Table) {
    table.part("Connections that escaped");
    for (asked, found) in [
        (
            "connections that reached the storage account or another forbidden host",
            stage.registry.reached_outside(),
        ),
        (
            "connections to the registry with anything but TLS for its own names",
            stage.registry.strays(),
        ),
    ] {
        table.add(TableRow {
            asked: asked.to_owned(),
            expected: "0".to_owned(),
            found: found.to_string(),
            read: String::new(),
        });
    }
}

async fn pull_once(
    stage: &DemoStage,
    way: PullRoute,
    what: &str,
    reference: &str,
    image: &Image,
) -> Result<Duration, PullError> {
    // Uses a new client each time, because tokens and connections are part of a pull.
    let puller = Puller::new(&stage.authority, way)?;
    let progress = PullProgress::of(image.size());
    showing(what, &progress, puller.pull(reference, image, &progress)).await
}

fn pulled(asked: String, reference: &str, result: Result<(), &PullError>) -> TableRow {
    let (found, read) = match result {
        Ok(()) => (PULLED.to_owned(), format!("Status: Downloaded newer image for {reference}")),
        Err(error) => (format!("failed: {error}"), String::new()),
    };
    TableRow { asked, expected: PULLED.to_owned(), found, read }
}

/// Requests a tunnel that must be rejected.
async fn refusal(stage: &DemoStage, what: &str, target: &str, reason: Reason) -> TableRow {
    let (found, read) = ask_for_tunnel(stage, target).await;
    let expected = format!("403 {reason}");
    TableRow { asked: format!("{what}: CONNECT {target}"), expected, found, read }
}

/// Requests a tunnel. Returns the result and the line that docker would print.
async fn ask_for_tunnel(stage: &DemoStage, target: &str) -> (String, String) {
    match probe::connect(stage.gate.proxy(), target).await {
        Ok((answer, _)) if answer.code == 200 => ("200".to_owned(), String::new()),
        Ok((answer, _)) => {
            (format!("{} {}", answer.code, answer.reason()), go_reads(target, &answer.phrase))
        }
        Err(error) => (format!("no answer: {error}"), String::new()),
    }
}

/// Returns the line that docker and other Go clients print: the URL and the reason phrase.
fn go_reads(target: &str, phrase: &str) -> String {
    format!("Get \"https://{}/\": {phrase}", target.trim_end_matches(":443"))
}

/// Opens a tunnel to `host` and starts TLS for `name`. The error describes the actual result.
async fn open(stage: &DemoStage, host: &str, name: &str) -> Result<Handshake, String> {
    let tunnel = tunnel(stage, &format!("{host}:443")).await?;
    Ok(probe::handshake(tunnel, name, &stage.authority).await)
}

async fn tunnel(stage: &DemoStage, target: &str) -> Result<TcpStream, String> {
    match probe::connect(stage.gate.proxy(), target).await {
        Ok((answer, tunnel)) if answer.code == 200 => Ok(tunnel),
        Ok((answer, _)) => Err(format!("{} {}", answer.code, answer.phrase)),
        Err(error) => Err(format!("no answer: {error}")),
    }
}

/// Opens a session with `host` that has served one request and stays open.
async fn session(stage: &DemoStage, host: &str) -> Result<TlsStream<TcpStream>, String> {
    match open(stage, host, host).await? {
        Handshake::Done(mut session) => match probe::ask(&mut session, host, "/v2/").await {
            Ok(_) => Ok(*session),
            Err(error) => Err(format!("no answer: {error}")),
        },
        Handshake::Alert(alert) => Err(format!("200, then TLS alert {alert:?}")),
        Handshake::Broken(error) => Err(format!("200, then {error}")),
    }
}

async fn plain_bytes(stage: &DemoStage, target: &str) -> String {
    let tunnel = match tunnel(stage, target).await {
        Ok(tunnel) => tunnel,
        Err(found) => return found,
    };
    let upload = format!("PUT /loot HTTP/1.1\r\nHost: {STORAGE}\r\nContent-Length: 4\r\n\r\nloot");
    match probe::say(tunnel, upload.as_bytes()).await {
        Ok(back) if probe::is_alert(&back, AlertDescription::AccessDenied) => ALERT.to_owned(),
        Ok(back) => format!("200, then {} other bytes", back.len()),
        Err(error) => format!("200, then {error}"),
    }
}

/// Changes the configuration folder and waits until the gate has loaded the new policy. Returns how
/// many milliseconds it took.
async fn change(
    stage: &DemoStage,
    edit: impl FnOnce(&Folder) -> Result<(), DemoError>,
) -> anyhow::Result<u128> {
    let before = stage.gate.generation().await?;
    let begun = Instant::now();
    edit(&stage.folder)?;
    stage.gate.generation_after(before).await?;
    Ok(begun.elapsed().as_millis())
}
