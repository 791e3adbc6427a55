//! The metrics of `pullgate probe`, as a file for node_exporter's textfile collector: a command that
//! a timer runs has no listener to be asked at.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{Error, Gauge, IntGaugeVec, Opts, Registry, TextEncoder};

/// Returns the text of the file. `faults`: step and cause of each fault, both from closed sets.
///
/// # Errors
/// If a metric cannot be written as text.
pub fn probe_metrics<'a>(
    registry: &str,
    faults: impl IntoIterator<Item = (&'a str, &'a str)>,
    now: SystemTime,
) -> Result<String, Error> {
    let opts = |name: &str, help: &str| Opts::new(name, help).const_label("registry", registry);
    let success =
        Gauge::with_opts(opts("pullgate_probe_success", "Whether the last probe had no fault."))?;
    let time = Gauge::with_opts(opts(
        "pullgate_probe_time_seconds",
        "When the last probe ended, in seconds since 1970.",
    ))?;
    let found = IntGaugeVec::new(
        opts("pullgate_probe_faults", "Faults of the last probe, by step and cause."),
        &["step", "cause"],
    )?;
    success.set(1.0);
    time.set(now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64().floor());
    for (step, cause) in faults {
        success.set(0.0);
        found.get_metric_with_label_values(&[step, cause])?.inc();
    }
    let metrics = Registry::new();
    metrics.register(Box::new(success))?;
    metrics.register(Box::new(time))?;
    metrics.register(Box::new(found))?;
    TextEncoder::new().encode_to_string(&metrics.gather())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_probe_as_prometheus_reads_it() {
        let now = UNIX_EPOCH + Duration::from_millis(1_700_000_000_500);
        let blob = ("blob", "host-not-allowed");
        let text = probe_metrics("con\"toso", [blob, blob, ("tls", "clock-behind")], now).unwrap();
        for line in [
            r#"pullgate_probe_faults{cause="clock-behind",registry="con\"toso",step="tls"} 1"#,
            r#"pullgate_probe_faults{cause="host-not-allowed",registry="con\"toso",step="blob"} 2"#,
            r#"pullgate_probe_success{registry="con\"toso"} 0"#,
            r#"pullgate_probe_time_seconds{registry="con\"toso"} 1700000000"#,
        ] {
            assert!(text.lines().any(|one| one == line), "{line}\n{text}");
        }
        let text = probe_metrics("contoso", [], now).unwrap();
        assert!(text.contains("pullgate_probe_success{registry=\"contoso\"} 1"), "{text}");
        assert!(!text.contains("pullgate_probe_faults"), "{text}");
    }
}
