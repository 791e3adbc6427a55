//! The time that a session spends in each stage.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

/// A stage; `stage` in metrics, a key of `ms` in audit lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The TLS handshake between client and gate.
    Tls,
    /// Reading the request.
    Head,
    /// Resolving the name.
    Resolve,
    /// Connecting to the upstream.
    Dial,
    /// Reading the ClientHello.
    Hello,
    /// Relaying bytes.
    Relay,
}

impl Stage {
    /// All stages, in the order of an explicit session.
    pub const ALL: &'static [Self] =
        &[Self::Tls, Self::Head, Self::Resolve, Self::Dial, Self::Hello, Self::Relay];

    /// Returns the code in audit lines and metrics.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Head => "head",
            Self::Resolve => "resolve",
            Self::Dial => "dial",
            Self::Hello => "hello",
            Self::Relay => "relay",
        }
    }
}

/// A stopwatch for the stages. The time between two calls of [`Self::enter`] belongs to the first
/// stage.
#[derive(Debug)]
pub struct Stages {
    current: Option<(Stage, Instant)>,
    /// In nanoseconds, at least one. Small, because every open session has them.
    spent: [Option<NonZeroU64>; Stage::ALL.len()],
}

impl Stages {
    /// Creates a stopwatch that is not started.
    #[must_use]
    pub fn none() -> Self {
        Self { current: None, spent: [None; _] }
    }

    /// Starts it in the first stage, at accept.
    #[must_use]
    pub fn start(first: Stage, accepted: Instant) -> Self {
        Self { current: Some((first, accepted)), spent: [None; _] }
    }

    /// Ends the current stage and starts the next one.
    pub fn enter(&mut self, next: Stage) {
        let now = Instant::now();
        self.end(now);
        self.current = Some((next, now));
    }

    /// Ends the last stage.
    pub fn finish(&mut self) {
        if self.current.is_some() {
            self.end(Instant::now());
        }
    }

    /// Returns whether a stage was entered.
    #[must_use]
    pub fn reached(&self, stage: Stage) -> bool {
        self.current.is_some_and(|(current, _)| current == stage)
            || self.spent().any(|(spent, _)| spent == stage)
    }

    /// Returns the finished stages and their durations.
    pub fn spent(&self) -> impl Iterator<Item = (Stage, Duration)> {
        let pairs = Stage::ALL.iter().zip(&self.spent);
        pairs.filter_map(|(stage, spent)| {
            spent.map(|spent| (*stage, Duration::from_nanos(spent.get())))
        })
    }

    fn end(&mut self, now: Instant) {
        let Some((stage, since)) = self.current.take() else { return };
        if let Some(spent) = self.spent.get_mut(stage as usize) {
            let more = nanoseconds(now.saturating_duration_since(since));
            *spent = Some(spent.map_or(more, |spent| spent.saturating_add(more.get())));
        }
    }

    #[cfg(test)]
    pub(super) fn fixed(spent: &[(Stage, Duration)]) -> Self {
        let mut stages = Self::none();
        for (stage, duration) in spent {
            stages.spent[*stage as usize] = Some(nanoseconds(*duration));
        }
        stages
    }
}

fn nanoseconds(duration: Duration) -> NonZeroU64 {
    let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    NonZeroU64::new(nanoseconds).unwrap_or(NonZeroU64::MIN)
}

impl Serialize for Stages {
    /// Milliseconds with microsecond precision.
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let milliseconds = |spent: Duration| {
            u32::try_from(spent.as_micros()).map(|micros| f64::from(micros) / 1e3)
        };
        out.collect_map(self.spent().map(|(stage, spent)| {
            // Above about an hour, whole milliseconds are enough.
            let rounded =
                milliseconds(spent).unwrap_or_else(|_| (spent.as_secs_f64() * 1e3).round());
            (stage.code(), rounded)
        }))
    }
}
