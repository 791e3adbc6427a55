//! The parts of `pullgate demo` besides the gate: a registry on loopback that behaves like Azure's,
//! a client that pulls from it, probes for denied targets, and a result table.
//!
//! Nothing here depends on the gate except its address: it would work with any other proxy. The
//! `demo` command runs the demonstration.

mod answer;
pub mod authority;
pub mod folder;
pub mod image;
pub mod probe;
pub mod progress;
pub mod pull;
pub mod registry;
pub mod table;

/// The login server that the policy allows.
pub const LOGIN: &str = "contoso.azurecr.io";
/// Its dedicated data endpoint.
pub const DATA: &str = "contoso.eastus.data.azurecr.io";
/// A login server that is added to the policy while the gate runs.
pub const LATER_LOGIN: &str = "fabrikam.azurecr.io";
/// Its data endpoint.
pub const LATER_DATA: &str = "fabrikam.westeurope.data.azurecr.io";
/// The storage account that serves blobs while dedicated data endpoints are disabled.
pub const STORAGE: &str = "eusmanaged123.blob.core.windows.net";
/// A registry that is not in the policy.
pub const FOREIGN_LOGIN: &str = "attacker.azurecr.io";
/// A data endpoint that is not in the policy.
pub const FOREIGN_DATA: &str = "evil.eastus.data.azurecr.io";

/// The repository of the image.
pub const IMAGE: &str = "team/app";
/// The repository of the small image.
pub const SMALL_IMAGE: &str = "tools/hello";
/// The tag of both images.
pub const TAG: &str = "1.0";

/// An error of the demonstration itself, never a result of the gate.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// TLS could not be configured.
    #[error("cannot set TLS up: {0}")]
    Tls(#[from] rustls::Error),
    /// A socket or a file failed.
    #[error("{what}: {error}")]
    Io {
        /// The operation.
        what: String,
        /// The error.
        #[source]
        error: std::io::Error,
    },
    /// An image could not be generated.
    #[error("cannot generate the image: {0}")]
    Image(#[from] tokio::task::JoinError),
}

impl DemoError {
    /// Returns a function that adds the operation to an I/O error.
    pub fn during(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |error| Self::Io { what, error }
    }
}

/// Converts bytes to MiB.
#[must_use]
pub fn mebibytes(bytes: u64) -> f64 {
    // Exact up to 2^53 bytes, which no image reaches.
    #[allow(clippy::cast_precision_loss)]
    let bytes = bytes as f64;
    bytes / f64::from(1 << 20)
}
