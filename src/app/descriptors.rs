//! Divides the file descriptors of the process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Returns the maximum number of descriptors. Raises the soft limit to the hard limit first.
pub(super) fn descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let soft = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    soft.and_then(|soft| usize::try_from(soft).ok()).unwrap_or(1 << 20)
}

/// The budget of descriptors: one for each connection without a request, two for each session, and
/// a reserve for DNS, the admin listener, the audit and the pipes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DescriptorBudget {
    pub(super) pending: usize,
    pub(super) sessions: usize,
}

impl DescriptorBudget {
    pub(super) fn new(descriptors: usize) -> Self {
        let reserve = 128 + descriptors / 128;
        let pending = (descriptors / 16).clamp(8, 16_384);
        let sessions = descriptors.saturating_sub(reserve + pending) / 2;
        Self { pending, sessions: sessions.max(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::DescriptorBudget;

    #[test]
    fn descriptors_suffice_for_what_they_are_shared_out_to() {
        for descriptors in [256, 1024, 20_000, 1 << 20] {
            let DescriptorBudget { pending, sessions } = DescriptorBudget::new(descriptors);
            assert!(pending + 2 * sessions + 128 <= descriptors, "{descriptors}");
        }
        assert!(DescriptorBudget::new(20_000).sessions >= 9_000);
    }
}
