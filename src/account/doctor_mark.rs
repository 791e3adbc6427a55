//! The hosts that `pullgate doctor` asks for. The status page and `pullgate report` leave them out.

/// The first label of these hosts, and the `User-Agent` of doctor's requests. Any client can use
/// it; the audit and the metrics therefore hide nothing.
pub const DOCTOR_MARK: &str = "pullgate-doctor";

/// Its default storage account. Account names contain no dashes.
pub const DOCTOR_STORAGE: &str = "pullgatedoctor.blob.core.windows.net";

/// Returns whether only `doctor` requests a host by default. The host may have a port.
#[must_use]
pub fn is_from_doctor(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name == DOCTOR_STORAGE
        || name.strip_prefix(DOCTOR_MARK).is_some_and(|rest| rest.starts_with('.'))
}
