//! Verifies the servers of an explained host, as the gate does before its first tunnel.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::dial::{DialledServer, Dialler, Resolver, TlsClients, Verifier};
use crate::policy::Stop;

/// Timeout for verifying the certificates at all addresses.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(10);

/// What was seen of the servers.
pub(super) struct SeenServers {
    /// The addresses with a valid certificate.
    pub(super) addresses: Vec<String>,
    /// The others, and why.
    pub(super) refused: Vec<String>,
    /// An error if none is valid.
    pub(super) outcome: Result<(), Stop>,
}

/// Verifies the server at each address of a permit, or the one that the parent proxy leads to.
pub(super) async fn servers(mut server: DialledServer, resolver: Arc<Resolver>) -> SeenServers {
    let tls = Arc::new(TlsClients::with_system_roots());
    let verifier = Arc::new(Verifier::new(tls, Arc::new(Dialler::new(resolver))));
    let by = Instant::now() + VERIFY_TIMEOUT;
    let addresses = server.permit.addresses().iter().map(|address| Some(*address));
    let mut tried: Vec<_> = addresses.collect();
    if tried.is_empty() {
        // The parent chooses it.
        tried.push(None);
    }
    let (mut seen, mut is_any_valid) = (SeenServers::new(), false);
    for address in tried {
        server.address = address;
        let place = address.map(|address| address.to_string());
        match verifier.verify(&server, by).await {
            Ok(()) => {
                is_any_valid = true;
                seen.addresses.extend(place);
            }
            Err(failure) => {
                let place = place.unwrap_or_else(|| "the server behind the parent:".to_owned());
                seen.refused.push(format!("{place} {}", failure.detail));
                seen.outcome = Err(failure.into());
            }
        }
    }
    if is_any_valid {
        seen.outcome = Ok(());
    }
    seen
}

impl SeenServers {
    fn new() -> Self {
        Self { addresses: Vec::new(), refused: Vec::new(), outcome: Ok(()) }
    }
}
