//! The metrics. Every label has a closed set of values.
//!
//! The registry label comes from a [`Grant`](crate::policy::Grant). Values that a client chooses
//! (hosts, addresses) are never labels.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{LabelPair, MetricFamily};
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};
use tokio::runtime::Handle;

use super::headed::Headed;
use super::labels::Labels;
use super::open_sessions::OpenSessions;
use super::query::QueryResult;
use super::record::{Outcome, Record, SessionEnd, Volume};
use super::stage::Stage;
use super::status::Status;
use crate::policy::{Cause, Enforcement, NO_LABEL};

/// Histogram buckets in seconds: typical stages, the timeouts of 10 s, and relays of minutes.
const BUCKETS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 60.0, 600.0, 3_600.0,
];

/// A kind of metric in the table.
trait Metric: Collector + Clone + Sized + 'static {
    fn make(opts: Opts, labels: &[&str]) -> Result<Self, prometheus::Error>;
}

impl Metric for IntCounter {
    fn make(opts: Opts, _: &[&str]) -> Result<Self, prometheus::Error> {
        Self::with_opts(opts)
    }
}

impl Metric for IntGauge {
    fn make(opts: Opts, _: &[&str]) -> Result<Self, prometheus::Error> {
        Self::with_opts(opts)
    }
}

impl Metric for IntCounterVec {
    fn make(opts: Opts, labels: &[&str]) -> Result<Self, prometheus::Error> {
        Self::new(opts, labels)
    }
}

impl Metric for IntGaugeVec {
    fn make(opts: Opts, labels: &[&str]) -> Result<Self, prometheus::Error> {
        Self::new(opts, labels)
    }
}

impl Metric for Histogram {
    fn make(opts: Opts, _: &[&str]) -> Result<Self, prometheus::Error> {
        Self::with_opts(HistogramOpts::from(opts).buckets(BUCKETS.to_vec()))
    }
}

impl Metric for HistogramVec {
    fn make(opts: Opts, labels: &[&str]) -> Result<Self, prometheus::Error> {
        Self::new(HistogramOpts::from(opts).buckets(BUCKETS.to_vec()), labels)
    }
}

/// Declares and registers metrics: field, kind, name, labels and help text of each.
macro_rules! metrics {
    ($($field:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        #[derive(Debug)]
        struct Series {
            $($field: $kind,)*
        }

        impl Series {
            fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
                $(
                    let $field = $kind::make(Opts::new($name, $help), &[$($label),*])?;
                    registry.register(Box::new($field.clone()))?;
                )*
                Ok(Self { $($field,)* })
            }
        }
    };
}

metrics! {
    sessions: IntCounterVec "pullgate_sessions_total" ["registry", "endpoint", "outcome", "reason"]
        "Ended sessions, by outcome.";
    open_sessions: IntGauge "pullgate_open_sessions" []
        "Open sessions.";
    stalled: IntGauge "pullgate_stalled_tunnels" []
        "Tunnels of which a side does not read what is queued for it.";
    stalled_bytes: IntGauge "pullgate_stalled_bytes" []
        "Kernel memory that the sockets of stalled tunnels hold, in bytes.";
    bytes: IntCounterVec "pullgate_relayed_bytes_total" ["registry", "endpoint", "direction", "path"]
        "Bytes relayed, including open sessions.";
    client_sessions: IntCounterVec "pullgate_client_sessions_total" ["client", "outcome"]
        "Ended sessions of a [[client]], by outcome.";
    client_bytes: IntCounterVec "pullgate_client_relayed_bytes_total" ["client", "direction"]
        "Bytes relayed for a [[client]], including open sessions.";
    stages: HistogramVec "pullgate_stage_seconds" ["stage"]
        "Time that sessions spent in each stage, in seconds.";
    parent_up: IntGaugeVec "pullgate_parent_up" ["parent"]
        "0 while no address of a parent proxy can be reached.";
    parent_seconds: Histogram "pullgate_parent_seconds" []
        "How long parent proxies took to open a tunnel, or to refuse it.";
    generation: IntGauge "pullgate_policy_generation" []
        "Generation of the current policy, counted from the first.";
    stale: IntGauge "pullgate_policy_stale" []
        "1 while the files hold a policy that could not be loaded.";
    enforcing: IntGauge "pullgate_enforcing" []
        "0 while some listener only reports what it would deny.";
    spoofed: IntCounter "pullgate_spoofed_destinations_total" []
        "Sessions whose original destination is not an address of the name in their ClientHello.";
    stale_answers: IntCounter "pullgate_stale_answers_total" []
        "Sessions dialled with an expired DNS answer, because no server answered.";
    splice_refused: IntCounter "pullgate_splice_refused_total" []
        "Sessions whose bytes were copied because the kernel refused splice(2).";
    queries: IntCounterVec "pullgate_dns_queries_total" ["result"]
        "DNS queries of clients, by result.";
    requests: IntCounterVec "pullgate_requests_total" ["registry", "operation", "outcome", "reason"]
        "Ended registry requests, by outcome.";
    request_seconds: HistogramVec "pullgate_request_seconds" ["operation"]
        "Duration of registry requests, in seconds.";
    panics: IntCounter "pullgate_session_panics_total" []
        "Sessions ended by a bug in the gate (panic).";
    audit_dropped: IntCounter "pullgate_audit_dropped_total" []
        "Audit lines dropped because the queue was full or they could not be written.";
    audit_failing: IntGauge "pullgate_audit_failing" []
        "1 while audit lines cannot be written, and wait.";
    storage_asks: IntGauge "pullgate_storage_account_asks_by_one_client" []
        "Highest number of requests for storage accounts by one client within ten to twenty minutes.";
    open_sessions_limit: IntGauge "pullgate_open_sessions_limit" []
        "Maximum number of open sessions, by the limit and by file descriptors.";
    certificate_expiry: IntGaugeVec "pullgate_certificate_expiry_seconds" ["file"]
        "When a file of certificates expires, in seconds since 1970.";
    tasks: IntGauge "pullgate_runtime_tasks" []
        "Live tasks in the runtimes of all threads.";
    build: IntGaugeVec "pullgate_build_info" ["version"]
        "Always 1. The label is the version.";
}

/// All metrics, and the Prometheus registry that collects them.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    series: Series,
    /// The histogram of each stage, in the order of [`Stage::ALL`].
    stages: Vec<Histogram>,
    /// The runtimes whose tasks are counted, besides the one that serves the metrics.
    runtimes: OnceLock<Vec<Handle>>,
}

/// Values that are not counters.
#[derive(Debug, Clone, Copy, Default)]
pub struct MetricsInput {
    /// Whether audit lines cannot be written now.
    pub audit_failing: bool,
    /// The highest recent number of storage requests of one client.
    pub storage_asks: u64,
}

impl Metrics {
    /// Creates the metrics and registers them.
    ///
    /// # Errors
    /// If the Prometheus registry already has metrics with these names.
    pub fn new(registry: Registry) -> Result<Self, prometheus::Error> {
        let series = Series::register(&registry)?;
        series.build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let stage = |stage: &Stage| series.stages.with_label_values(&[stage.code()]);
        let stages = Stage::ALL.iter().map(stage).collect();
        registry.register(Box::new(ProcessCollector::for_self()))?;
        Ok(Self { registry, series, stages, runtimes: OnceLock::new() })
    }

    /// Also counts the tasks of these runtimes.
    pub(super) fn count_tasks_of(&self, runtimes: Vec<Handle>) {
        let _ = self.runtimes.set(runtimes);
    }

    /// Returns the metrics in Prometheus text format 0.0.4.
    ///
    /// # Errors
    /// If a metric cannot be encoded.
    pub fn text(
        &self,
        open: &OpenSessions,
        input: MetricsInput,
        status: &Status,
    ) -> Result<String, prometheus::Error> {
        self.series.audit_failing.set(i64::from(input.audit_failing));
        let stalled = open.credit(|labels, volume| self.relayed(labels, volume));
        self.series.stalled.set(i64::try_from(stalled.sessions).unwrap_or(i64::MAX));
        self.series.stalled_bytes.set(i64::try_from(stalled.bytes).unwrap_or(i64::MAX));
        self.series.storage_asks.set(i64::try_from(input.storage_asks).unwrap_or(i64::MAX));
        let limit = i64::try_from(status.open_sessions_limit).unwrap_or(i64::MAX);
        self.series.open_sessions_limit.set(limit);
        self.series.open_sessions.set(i64::try_from(open.count()).unwrap_or(i64::MAX));
        self.series.generation.set(i64::try_from(status.generation).unwrap_or(i64::MAX));
        self.series.stale.set(i64::from(status.stale.is_some()));
        self.series.parent_up.reset();
        for parent in status.parents.iter() {
            let up = self.series.parent_up.with_label_values(&[&*parent.name]);
            up.set(i64::from(parent.is_up));
        }
        self.series.enforcing.set(i64::from(status.enforcement == Enforcement::Enforce));
        self.series.certificate_expiry.reset();
        for (file, last_second) in status.certificates.iter() {
            self.series.certificate_expiry.with_label_values(&[file]).set(*last_second);
        }
        let here = Handle::try_current().ok();
        let runtimes = here.iter().chain(self.runtimes.get().into_iter().flatten());
        let tasks: usize = runtimes.map(|runtime| runtime.metrics().num_alive_tasks()).sum();
        self.series.tasks.set(i64::try_from(tasks).unwrap_or(i64::MAX));
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// Returns the bytes relayed, up and down, by registry label.
    pub(super) fn moved_by_registry(&self, open: &OpenSessions) -> BTreeMap<String, (u64, u64)> {
        open.credit(|labels, volume| self.relayed(labels, volume));
        let mut moved: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for metric in self.series.bytes.collect().iter().flat_map(MetricFamily::get_metric) {
            let label = |name: &str| {
                let mut labels = metric.get_label().iter();
                labels.find(|label| label.name() == name).map(LabelPair::value)
            };
            let (Some(registry), Some(direction)) = (label("registry"), label("direction")) else {
                continue;
            };
            let (up, down) = moved.entry(registry.to_owned()).or_default();
            // Counted as integers, but returned as floating-point numbers.
            let count = metric.get_counter().get_value() as u64;
            *if direction == "up" { up } else { down } += count;
        }
        moved
    }

    /// Returns the number of ended sessions and requests by outcome, in the order of
    /// [`Outcome::ALL`]. Failures of normal operation are left out.
    pub(super) fn ends(&self) -> [u64; 4] {
        let mut ends = [0; 4];
        let families = [self.series.sessions.collect(), self.series.requests.collect()];
        for metric in families.iter().flatten().flat_map(MetricFamily::get_metric) {
            let label = |name: &str| {
                let mut labels = metric.get_label().iter();
                labels.find(|label| label.name() == name).map(LabelPair::value)
            };
            let at = Outcome::ALL.iter().position(|one| Some(one.code()) == label("outcome"));
            let cause = label("reason").and_then(Cause::from_code);
            let is_routine = cause.is_some_and(Cause::is_routine);
            if let Some(count) = at.and_then(|at| ends.get_mut(at)).filter(|_| !is_routine) {
                // Counted as integers, but returned as floating-point numbers.
                *count += metric.get_counter().get_value() as u64;
            }
        }
        ends
    }

    /// Counts the end of a session. Its bytes are counted separately, because some may be counted
    /// already.
    pub(super) fn ended(&self, record: &Record, verdict: SessionEnd) {
        let Labels { registry, endpoint, client } = Labels::of_record(record);
        let reason = verdict.reason.unwrap_or(NO_LABEL);
        self.series
            .sessions
            .with_label_values(&[registry, endpoint, verdict.outcome.code(), reason])
            .inc();
        if let Some(client) = client {
            self.series.client_sessions.with_label_values(&[client, verdict.outcome.code()]).inc();
        }
        if record.headed().is_some_and(Headed::is_spoofed) {
            self.series.spoofed.inc();
        }
        if record.is_stale() {
            self.series.stale_answers.inc();
        }
        if record.splice_refused {
            self.series.splice_refused.inc();
        }
        for (stage, spent) in record.stages.spent() {
            if stage == Stage::Dial && record.has_parent() {
                self.series.parent_seconds.observe(spent.as_secs_f64());
            }
            if let Some(histogram) = self.stages.get(stage as usize) {
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
            self.series
                .bytes
                .with_label_values(&[registry, endpoint, direction, path])
                .inc_by(count);
            if let Some(client) = client {
                self.series.client_bytes.with_label_values(&[client, direction]).inc_by(count);
            }
        }
    }

    pub(super) fn query_ended(&self, result: QueryResult) {
        self.series.queries.with_label_values(&[result.code()]).inc();
    }

    pub(super) fn request_ended(
        &self,
        registry: &str,
        operation: &str,
        verdict: SessionEnd,
        spent: Duration,
    ) {
        let reason = verdict.reason.unwrap_or(NO_LABEL);
        let labels = [registry, operation, verdict.outcome.code(), reason];
        self.series.requests.with_label_values(&labels).inc();
        self.series.request_seconds.with_label_values(&[operation]).observe(spent.as_secs_f64());
    }

    pub(super) fn panicked(&self) {
        self.series.panics.inc();
    }

    pub(super) fn audit_dropped(&self) -> &IntCounter {
        &self.series.audit_dropped
    }
}
