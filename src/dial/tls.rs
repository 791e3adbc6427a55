//! The gate's own TLS client: it verifies a registry's certificate against the system's roots, and
//! those that the registry's file adds.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::warn;

use crate::policy::{Cause, Failure, Name, Side};

/// HTTP/1.1 is what the gate speaks within (RFC 7301).
const ALPN: &[u8] = b"http/1.1";

fn upstream(cause: Cause) -> Failure {
    Failure { side: Side::Upstream, cause }
}

/// Why there is no TLS, and what was seen.
#[derive(Debug)]
pub struct TlsFault {
    /// For the account.
    pub failure: Failure,
    /// For whoever reads it.
    pub detail: String,
}

/// Makes TLS connections to registries.
pub struct TlsClients {
    roots: RootCertStore,
    plain: Arc<ClientConfig>,
    /// For the registries with roots of their own.
    known: Mutex<HashMap<Arc<str>, Known>>,
}

/// A registry's configuration, and the generation of the policy that it was made for.
struct Known {
    generation: u64,
    config: Arc<ClientConfig>,
}

impl std::fmt::Debug for TlsClients {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "TlsClients({} roots)", self.roots.len())
    }
}

impl TlsClients {
    /// Reads the system's roots. Without any, each registry needs a `ca`.
    #[must_use]
    pub fn with_system_roots() -> Self {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            warn!("no root certificates found: install ca-certificates, or set ca per registry");
        }
        let plain = Arc::new(config(roots.clone()));
        Self { roots, plain, known: Mutex::default() }
    }

    fn config(
        &self,
        registry: &Arc<str>,
        generation: u64,
        ca: &[CertificateDer<'static>],
    ) -> Arc<ClientConfig> {
        if ca.is_empty() {
            return self.plain.clone();
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get(registry) {
            Some(known) if known.generation == generation => known.config.clone(),
            _ => {
                let mut roots = self.roots.clone();
                // Each was parsed when the file was read.
                roots.add_parsable_certificates(ca.iter().cloned());
                let config = Arc::new(config(roots));
                known.insert(registry.clone(), Known { generation, config: config.clone() });
                config
            }
        }
    }

    /// Makes the handshake with a server that was dialled, and verifies its certificate for that
    /// name.
    ///
    /// # Errors
    /// `upstream-tls`, with what is wrong; `connect-timeout` when the deadline comes first.
    pub async fn handshake(
        &self,
        socket: TcpStream,
        name: &Name,
        (registry, generation): (&Arc<str>, u64),
        ca: &[CertificateDer<'static>],
        by: Instant,
    ) -> Result<TlsStream<TcpStream>, TlsFault> {
        let config = self.config(registry, generation, ca);
        let server = ServerName::try_from(name.as_str().to_owned()).map_err(|error| TlsFault {
            failure: upstream(Cause::UpstreamTls),
            detail: error.to_string(),
        })?;
        match timeout_at(by, TlsConnector::from(config).connect(server, socket)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(fault(&error)),
            Err(_) => Err(TlsFault {
                failure: upstream(Cause::ConnectTimeout),
                detail: "the TLS handshake took too long".into(),
            }),
        }
    }
}

fn config(roots: RootCertStore) -> ClientConfig {
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    config
}

fn fault(error: &io::Error) -> TlsFault {
    use CertificateError as Fault;
    let tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    let detail = match tls {
        Some(rustls::Error::InvalidCertificate(fault)) => match fault {
            Fault::Expired | Fault::ExpiredContext { .. } => "its certificate has expired".into(),
            Fault::NotValidYet | Fault::NotValidYetContext { .. } => {
                "its certificate is not valid yet".into()
            }
            Fault::UnknownIssuer => {
                "its certificate is from an unknown authority; set ca in the registry's file".into()
            }
            Fault::NotValidForName | Fault::NotValidForNameContext { .. } => {
                "its certificate is for another name".into()
            }
            other => format!("its certificate was rejected: {other}"),
        },
        _ => error.to_string(),
    };
    TlsFault { failure: upstream(Cause::UpstreamTls), detail }
}
