//! The counters, by the names of the contract. Every label is from a closed set.
//!
//! A registry's label is its [`Grant`](crate::policy::Grant)'s; what a client chooses (a host, an
//! address) has no way in here.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{LabelPair, MetricFamily};
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};
use tokio::runtime::Handle;

use super::labels::Labels;
use super::open_sessions::OpenSessions;
use super::query::QueryResult;
use super::record::{Headed, Record, Verdict, Volume};
use super::stage::Stage;
use super::status::Status;
use crate::policy::{Enforcement, NO_LABEL};

/// Upper bounds in seconds: what a stage should take, the deadlines of 10 s, and relays of minutes.
const BUCKETS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 60.0, 600.0, 3_600.0,
];

/// Every metric, and the registry that they are gathered from.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    sessions: IntCounterVec,
    open_sessions: IntGauge,
    bytes: IntCounterVec,
    client_sessions: IntCounterVec,
    client_bytes: IntCounterVec,
    stages: Vec<(Stage, Histogram)>,
    generation: IntGauge,
    stale: IntGauge,
    enforcing: IntGauge,
    spoofed: IntCounter,
    stale_answers: IntCounter,
    queries: IntCounterVec,
    panics: IntCounter,
    audit_dropped: IntCounter,
    audit_failing: IntGauge,
    storage_asks: IntGauge,
    open_sessions_limit: IntGauge,
    tasks: IntGauge,
    /// The runtimes whose tasks count, beside that in which the metrics are asked for.
    runtimes: OnceLock<Vec<Handle>>,
}

/// What the accounts know beside the counters.
#[derive(Debug, Clone, Copy, Default)]
pub struct Told {
    /// Audit lines cannot be written now.
    pub audit_failing: bool,
    /// The most that one client asked for storage accounts of late.
    pub storage_asks: u64,
}

impl Metrics {
    /// Makes the metrics and registers them.
    ///
    /// # Errors
    /// When the registry holds metrics of these names already.
    pub fn new(registry: Registry) -> Result<Self, prometheus::Error> {
        let stage_seconds = HistogramVec::new(
            HistogramOpts::new("pullgate_stage_seconds", "How long sessions spent at each stage.")
                .buckets(BUCKETS.to_vec()),
            &["stage"],
        )?;
        let build = IntGaugeVec::new(
            Opts::new("pullgate_build_info", "Always 1; the label tells the version."),
            &["version"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let metrics = Self {
            sessions: IntCounterVec::new(
                Opts::new(
                    "pullgate_sessions_total",
                    "Sessions that ended, by what became of them.",
                ),
                &["registry", "endpoint", "outcome", "reason"],
            )?,
            open_sessions: IntGauge::new("pullgate_open_sessions", "Sessions open now.")?,
            bytes: IntCounterVec::new(
                Opts::new("pullgate_relayed_bytes_total", "Bytes relayed, live sessions included."),
                &["registry", "endpoint", "direction", "path"],
            )?,
            client_sessions: IntCounterVec::new(
                Opts::new(
                    "pullgate_client_sessions_total",
                    "Sessions of a [[client]] that ended, by what became of them.",
                ),
                &["client", "outcome"],
            )?,
            client_bytes: IntCounterVec::new(
                Opts::new(
                    "pullgate_client_relayed_bytes_total",
                    "Bytes relayed for a [[client]], live sessions included.",
                ),
                &["client", "direction"],
            )?,
            stages: Stage::ALL
                .iter()
                .map(|stage| (*stage, stage_seconds.with_label_values(&[stage.code()])))
                .collect(),
            generation: IntGauge::new(
                "pullgate_policy_generation",
                "The policy in force, counted from the first.",
            )?,
            stale: IntGauge::new(
                "pullgate_policy_stale",
                "1 while the files hold a policy that could not be loaded.",
            )?,
            enforcing: IntGauge::new(
                "pullgate_enforcing",
                "0 while some listener only reports what it would deny.",
            )?,
            stale_answers: IntCounter::new(
                "pullgate_stale_answers_total",
                "Sessions dialled by an answer of DNS that had run out, since no server answered.",
            )?,
            spoofed: IntCounter::new(
                "pullgate_spoofed_destinations_total",
                "Sessions headed for an address that the name in their hello has not.",
            )?,
            queries: IntCounterVec::new(
                Opts::new(
                    "pullgate_dns_queries_total",
                    "Queries that the answerer was asked, by what became of them.",
                ),
                &["result"],
            )?,
            panics: IntCounter::new(
                "pullgate_session_panics_total",
                "Sessions ended by a fault of the gate's own code.",
            )?,
            audit_dropped: IntCounter::new(
                "pullgate_audit_dropped_total",
                "Audit lines lost: the queue was full, or they could not be written.",
            )?,
            storage_asks: IntGauge::new(
                "pullgate_storage_account_asks_by_one_client",
                "The most that one client asked for storage accounts, within ten to twenty minutes.",
            )?,
            open_sessions_limit: IntGauge::new(
                "pullgate_open_sessions_limit",
                "Sessions that may be open at once: the limit, or what descriptors allow.",
            )?,
            audit_failing: IntGauge::new(
                "pullgate_audit_failing",
                "1 while audit lines cannot be written, and wait.",
            )?,
            tasks: IntGauge::new(
                "pullgate_runtime_tasks",
                "Tasks alive in all threads' runtimes.",
            )?,
            runtimes: OnceLock::new(),
            registry,
        };
        let all: Vec<Box<dyn Collector>> = vec![
            Box::new(metrics.sessions.clone()),
            Box::new(metrics.open_sessions.clone()),
            Box::new(metrics.bytes.clone()),
            Box::new(metrics.client_sessions.clone()),
            Box::new(metrics.client_bytes.clone()),
            Box::new(stage_seconds),
            Box::new(metrics.generation.clone()),
            Box::new(metrics.stale.clone()),
            Box::new(metrics.enforcing.clone()),
            Box::new(metrics.spoofed.clone()),
            Box::new(metrics.stale_answers.clone()),
            Box::new(metrics.queries.clone()),
            Box::new(metrics.panics.clone()),
            Box::new(metrics.audit_dropped.clone()),
            Box::new(metrics.audit_failing.clone()),
            Box::new(metrics.storage_asks.clone()),
            Box::new(metrics.open_sessions_limit.clone()),
            Box::new(metrics.tasks.clone()),
            Box::new(build),
        ];
        for collector in all {
            metrics.registry.register(collector)?;
        }
        metrics.registry.register(Box::new(ProcessCollector::for_self()))?;
        Ok(metrics)
    }

    /// Counts the tasks of these runtimes too, from now on.
    pub(super) fn count_tasks_of(&self, runtimes: Vec<Handle>) {
        let _ = self.runtimes.set(runtimes);
    }

    /// The metrics as Prometheus reads them (text format 0.0.4).
    ///
    /// # Errors
    /// When a metric cannot be written as text.
    pub fn text(
        &self,
        open: &OpenSessions,
        told: Told,
        status: &Status,
    ) -> Result<String, prometheus::Error> {
        self.audit_failing.set(i64::from(told.audit_failing));
        open.credit(|labels, volume| self.relayed(labels, volume));
        self.storage_asks.set(i64::try_from(told.storage_asks).unwrap_or(i64::MAX));
        let limit = i64::try_from(status.open_sessions_limit).unwrap_or(i64::MAX);
        self.open_sessions_limit.set(limit);
        self.open_sessions.set(i64::try_from(open.count()).unwrap_or(i64::MAX));
        self.generation.set(i64::try_from(status.generation).unwrap_or(i64::MAX));
        self.stale.set(i64::from(status.stale.is_some()));
        self.enforcing.set(i64::from(status.enforcement == Enforcement::Enforce));
        let here = Handle::try_current().ok();
        let runtimes = here.iter().chain(self.runtimes.get().into_iter().flatten());
        let tasks: usize = runtimes.map(|runtime| runtime.metrics().num_alive_tasks()).sum();
        self.tasks.set(i64::try_from(tasks).unwrap_or(i64::MAX));
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// What was relayed so far, up and down, by the registry's label.
    pub(super) fn moved_by_registry(&self, open: &OpenSessions) -> BTreeMap<String, (u64, u64)> {
        open.credit(|labels, volume| self.relayed(labels, volume));
        let mut moved: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for metric in self.bytes.collect().iter().flat_map(MetricFamily::get_metric) {
            let label = |name: &str| {
                let mut labels = metric.get_label().iter();
                labels.find(|label| label.name() == name).map(LabelPair::value)
            };
            let (Some(registry), Some(direction)) = (label("registry"), label("direction")) else {
                continue;
            };
            let (up, down) = moved.entry(registry.to_owned()).or_default();
            // Counted in whole numbers; they come as floating ones.
            let count = metric.get_counter().get_value() as u64;
            *if direction == "up" { up } else { down } += count;
        }
        moved
    }

    /// Counts a session's end. What it moved is counted apart, since part of it may be already.
    pub(super) fn ended(&self, record: &Record, verdict: Verdict) {
        let Labels { registry, endpoint, client } = Labels::of_record(record);
        let reason = verdict.reason.unwrap_or(NO_LABEL);
        self.sessions
            .with_label_values(&[registry, endpoint, verdict.outcome.code(), reason])
            .inc();
        if let Some(client) = client {
            self.client_sessions.with_label_values(&[client, verdict.outcome.code()]).inc();
        }
        if record.headed().is_some_and(Headed::is_spoofed) {
            self.spoofed.inc();
        }
        if record.is_stale() {
            self.stale_answers.inc();
        }
        for (stage, spent) in record.stages.spent() {
            if let Some((_, histogram)) = self.stages.get(stage as usize) {
                histogram.observe(spent.as_secs_f64());
            }
        }
    }

    pub(super) fn relayed(&self, labels: Labels<'_>, volume: Volume) {
        let Labels { registry, endpoint, client } = labels;
        let parts = [
            ("up", "splice", volume.up.spliced),
            ("up", "copy", volume.up.copied),
            ("down", "splice", volume.down.spliced),
            ("down", "copy", volume.down.copied),
        ];
        for (direction, path, count) in parts.into_iter().filter(|(.., count)| *count > 0) {
            self.bytes.with_label_values(&[registry, endpoint, direction, path]).inc_by(count);
            if let Some(client) = client {
                self.client_bytes.with_label_values(&[client, direction]).inc_by(count);
            }
        }
    }

    pub(super) fn query_ended(&self, result: QueryResult) {
        self.queries.with_label_values(&[result.code()]).inc();
    }

    pub(super) fn panicked(&self) {
        self.panics.inc();
    }

    pub(super) fn audit_dropped(&self) -> &IntCounter {
        &self.audit_dropped
    }
}
