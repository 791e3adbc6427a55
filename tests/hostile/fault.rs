//! A panic in the gate's code in the middle of a session ends that session and no other.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::site::{CONNECT, Feeding, PATIENT, on_a_site};

/// Panics once, when the resolver logs something for a session. All threads of the process log
/// here; the network namespace identifies the threads of this test's gate.
struct Fault {
    is_due: Arc<AtomicBool>,
    network: PathBuf,
}

/// Returns the network namespace of this thread.
fn network() -> PathBuf {
    std::fs::read_link("/proc/thread-self/ns/net").unwrap()
}

impl Subscriber for Fault {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target() == "pullgate::dial::resolve"
    }

    fn event(&self, event: &Event<'_>) {
        if network() == self.network && self.is_due.swap(false, Ordering::SeqCst) {
            panic!("a fault for the test's sake, in {}", event.metadata().target());
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn a_panic_ends_its_own_session_and_is_counted() {
    on_a_site(PATIENT, async |site| {
        let mut before = site.client(site.connect).await;
        before.send(CONNECT.as_bytes(), Feeding::Whole).await;
        assert!(before.head().await.starts_with("HTTP/1.1 200 "));
        let _upstream = site.dialled().await;

        let is_due = Arc::new(AtomicBool::new(true));
        let fault = Fault { is_due: is_due.clone(), network: network() };
        tracing::subscriber::set_global_default(fault).unwrap();
        let mut unlucky = site.client(site.connect).await;
        unlucky.send(CONNECT.as_bytes(), Feeding::Whole).await;
        assert!(unlucky.rest().await.0.is_empty(), "there is nobody left to answer");
        assert!(!is_due.load(Ordering::SeqCst));

        let mut after = site.client(site.connect).await;
        after.send(CONNECT.as_bytes(), Feeding::Whole).await;
        assert!(after.head().await.starts_with("HTTP/1.1 200 "));
        before.send(b"still here", Feeding::Whole).await;
        assert_eq!(before.rest().await.0, pullgate::hello::ACCESS_DENIED, "it is answered");
        let metrics = site.metrics().await;
        assert!(metrics.contains("\npullgate_session_panics_total 1\n"), "{metrics}");
        drop(after);
        let lines = site.close().await;
        let line = &lines[&unlucky.source];
        assert_eq!((&line["outcome"], &line["reason"]), (&"failed".into(), &"internal".into()));
    });
}
