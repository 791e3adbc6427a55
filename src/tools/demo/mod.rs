//! What `pullgate demo` needs beside the gate: a registry on loopback as Azure's behave, a client
//! that pulls from it, probes that try the exits, and a table of what came of it all.
//!
//! It is no mock of the gate and knows nothing of it but an address: everything here would work
//! as well against another proxy. The demonstration itself is told by the `demo` command.

mod answer;
pub mod authority;
pub mod folder;
pub mod image;
pub mod probe;
pub mod progress;
pub mod pull;
pub mod registry;
pub mod table;

/// The login server that the demonstration's policy allows.
pub const LOGIN: &str = "contoso.azurecr.io";
/// Its dedicated data endpoint.
pub const DATA: &str = "contoso.eastus.data.azurecr.io";
/// A login server that the policy learns of while the gate runs.
pub const LATER_LOGIN: &str = "fabrikam.azurecr.io";
/// The data endpoint of that one.
pub const LATER_DATA: &str = "fabrikam.westeurope.data.azurecr.io";
/// The storage account that blobs come from while dedicated data endpoints are off.
pub const STORAGE: &str = "eusmanaged123.blob.core.windows.net";
/// A registry that no policy names.
pub const FOREIGN_LOGIN: &str = "attacker.azurecr.io";
/// A data endpoint that no policy names.
pub const FOREIGN_DATA: &str = "evil.eastus.data.azurecr.io";

/// The image that is pulled, without its registry.
pub const IMAGE: &str = "team/app";
/// A small image beside it.
pub const SMALL_IMAGE: &str = "tools/hello";
/// The tag of both.
pub const TAG: &str = "1.0";

/// What can go wrong with the demonstration's own parts; never a finding about the gate.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// TLS could not be set up.
    #[error("cannot set TLS up: {0}")]
    Tls(#[from] rustls::Error),
    /// A socket or a file failed.
    #[error("{what}: {error}")]
    Io {
        /// What was being done.
        what: String,
        /// How it failed.
        #[source]
        error: std::io::Error,
    },
    /// An image could not be generated.
    #[error("cannot generate the image: {0}")]
    Image(#[from] tokio::task::JoinError),
}

impl Fault {
    /// Says what was being done when a socket or a file failed.
    pub fn during(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |error| Self::Io { what, error }
    }
}

/// Bytes as MiB.
#[must_use]
pub fn mebibytes(bytes: u64) -> f64 {
    // Exact up to 2^53 bytes, which no image reaches.
    #[allow(clippy::cast_precision_loss)]
    let bytes = bytes as f64;
    bytes / f64::from(1 << 20)
}
