//! The gate of the demonstration. It runs in this process, is started by the function that
//! `pullgate run` uses, and is observed only through its admin listener.

use crate::app;
use crate::tools::demo::probe;
use anyhow::{Context, bail};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// Timeout for a reload, and for recording sessions that have ended.
const PATIENCE: Duration = Duration::from_secs(10);
/// Interval between two reads of the metrics.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Drain timeout when the gate stops.
const DRAIN: Duration = Duration::from_secs(1);

/// A running gate.
pub(super) struct DemoGate {
    proxy: SocketAddr,
    admin: SocketAddr,
    running: app::Running,
}

impl DemoGate {
    pub(super) async fn start(settings: &Path) -> anyhow::Result<Self> {
        let running = app::start(app::Prepared::read(settings)?, app::Inherited::default()).await?;
        let proxy = running.listeners().first().context("the gate does not listen")?.address;
        let admin = running.admin().context("the gate has no admin listener")?;
        Ok(Self { proxy, admin, running })
    }

    /// Returns the address of the proxy listener.
    pub(super) fn proxy(&self) -> SocketAddr {
        self.proxy
    }

    /// Stops the gate and flushes its audit.
    pub(super) async fn stop(self) {
        self.running.stop(DRAIN).await;
    }

    /// Returns the generation of the current policy.
    pub(super) async fn generation(&self) -> anyhow::Result<u64> {
        Ok(total(&self.metrics().await?, "pullgate_policy_generation", ""))
    }

    /// Waits until a later generation than `before` is loaded.
    pub(super) async fn generation_after(&self, before: u64) -> anyhow::Result<()> {
        self.wait("a reload", |page| total(page, "pullgate_policy_generation", "") > before)
            .await
            .map(drop)
    }

    /// Waits until no session is open. Returns the bytes relayed by splice and by copying.
    pub(super) async fn relayed(&self) -> anyhow::Result<(u64, u64)> {
        let idle = |page: &str| total(page, "pullgate_open_sessions", "") == 0;
        let page = self.wait("the sessions' end", idle).await?;
        let relayed = |path| total(&page, "pullgate_relayed_bytes_total", path);
        Ok((relayed(r#"path="splice""#), relayed(r#"path="copy""#)))
    }

    async fn wait(&self, what: &str, done: impl Fn(&str) -> bool) -> anyhow::Result<String> {
        let looking = async {
            loop {
                let page = self.metrics().await?;
                if done(&page) {
                    return Ok(page);
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        match tokio::time::timeout(PATIENCE, looking).await {
            Ok(page) => page,
            Err(_) => bail!("waited {} s for {what}", PATIENCE.as_secs()),
        }
    }

    async fn metrics(&self) -> anyhow::Result<String> {
        probe::page(self.admin, "/metrics").await.context("the gate's metrics cannot be read")
    }
}

/// Returns the sum of a metric's samples whose labels contain `label`, in Prometheus text format.
fn total(page: &str, metric: &str, label: &str) -> u64 {
    page.lines()
        .filter_map(|line| line.strip_prefix(metric)?.rsplit_once(' '))
        .filter(|(labels, _)| labels.is_empty() || labels.starts_with('{'))
        .filter(|(labels, _)| labels.contains(label))
        .filter_map(|(_, value)| value.parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_added_up() {
        let page = "# HELP pullgate_x_total A thing.\n# TYPE pullgate_x_total counter\n\
                    pullgate_x_total{a=\"b c\",path=\"splice\"} 3\n\
                    pullgate_x_total{a=\"d\",path=\"splice\"} 4\n\
                    pullgate_x_total{a=\"d\",path=\"copy\"} 5\n\
                    pullgate_x_total_more 6\npullgate_y 7\n";
        for (metric, label, sum) in [
            ("pullgate_x_total", "", 12),
            ("pullgate_x_total", r#"path="splice""#, 7),
            ("pullgate_y", "", 7),
            ("pullgate_z", "", 0),
        ] {
            assert_eq!(total(page, metric, label), sum, "{metric} {label}");
        }
    }
}
