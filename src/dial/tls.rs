//! The gate's own TLS client: it verifies a registry's certificate against the system's roots, and
//! those that the registry's file adds.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::policy::{Cause, Failure, Name, Side};

/// HTTP/1.1 is what the gate speaks within (RFC 7301).
const ALPN: &[u8] = b"http/1.1";

/// Maximum number of characters of an issuer's name that are shown.
const LONGEST_ISSUER: usize = 60;

/// Why the TLS handshake failed, and what was observed.
#[derive(Debug)]
pub struct TlsFault {
    /// For the account.
    pub failure: Failure,
    /// A description for operators.
    pub detail: String,
    /// Whether the certificate was rejected, and not something else failed.
    pub is_of_certificate: bool,
    /// The certificate that was rejected.
    pub rejected: Option<SeenCertificate>,
}

impl TlsFault {
    fn new(cause: Cause, detail: String) -> Self {
        let failure = Failure { side: Side::Upstream, cause };
        Self { failure, detail, is_of_certificate: false, rejected: None }
    }
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
        roots.add_parsable_certificates(found.certs);
        let plain = Arc::new(config(roots.clone()));
        Self { roots, plain, known: Mutex::default() }
    }

    /// Whether the system has no roots.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
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
    pub async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        socket: S,
        name: &Name,
        (registry, generation): (&Arc<str>, u64),
        ca: &[CertificateDer<'static>],
        by: Instant,
    ) -> Result<TlsStream<S>, TlsFault> {
        connect(self.config(registry, generation, ca), socket, name, by).await
    }

    /// Makes the same handshake, and returns what is known of the certificate, valid or not.
    pub async fn examine<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        socket: S,
        name: &Name,
        ca: &[CertificateDer<'static>],
        by: Instant,
    ) -> Examined<S> {
        let mut roots = self.roots.clone();
        roots.add_parsable_certificates(ca.iter().cloned());
        if roots.is_empty() {
            let detail = "there are no root certificates to verify it with".into();
            let fault = TlsFault::new(Cause::UpstreamCertificate, detail);
            return Examined { stream: Err(fault), certificate: None };
        }
        match connect(Arc::new(config(roots)), socket, name, by).await {
            Ok(stream) => {
                let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                let certificate = shown.and_then(SeenCertificate::read);
                Examined { stream: Ok(stream), certificate }
            }
            Err(mut fault) => {
                let certificate = fault.rejected.take();
                Examined { stream: Err(fault), certificate }
            }
        }
    }
}

async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    config: Arc<ClientConfig>,
    socket: S,
    name: &Name,
    by: Instant,
) -> Result<TlsStream<S>, TlsFault> {
    let server = ServerName::try_from(name.as_str().to_owned())
        .map_err(|error| TlsFault::new(Cause::UpstreamTls, error.to_string()))?;
    match timeout_at(by, TlsConnector::from(config).connect(server, socket)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(fault(&error)),
        Err(_) => {
            Err(TlsFault::new(Cause::ConnectTimeout, "the TLS handshake took too long".into()))
        }
    }
}

/// A handshake and the certificate that was seen in it.
#[derive(Debug)]
pub struct Examined<S> {
    /// The stream, once the certificate has been verified.
    pub stream: Result<TlsStream<S>, TlsFault>,
    /// The server's certificate, verified or not.
    pub certificate: Option<SeenCertificate>,
}

/// What an operator wants to know of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenCertificate {
    /// Who issued it, in printable characters.
    pub issuer: String,
    /// From when on it is valid, in seconds since 1970.
    pub not_before: i64,
    /// Until when it is valid, in seconds since 1970.
    pub not_after: i64,
}

impl SeenCertificate {
    fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let issuer = parsed.issuer();
        let mut names = issuer.iter_common_name().chain(issuer.iter_organization());
        let name = names.find_map(|name| name.as_str().ok().map(str::to_owned));
        let name = name.unwrap_or_else(|| issuer.to_string());
        let printable = |one: char| if matches!(one, ' '..='~') { one } else { '?' };
        Some(Self {
            issuer: name.chars().take(LONGEST_ISSUER).map(printable).collect(),
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
        })
    }
}

/// Verifies as the TLS library does; its error holds what was seen of the certificate.
#[derive(Debug)]
struct Describing(Arc<WebPkiServerVerifier>);

/// A certificate that was rejected, and why.
#[derive(Debug, thiserror::Error)]
#[error("{fault}; issuer: {}", certificate.issuer)]
struct Rejected {
    fault: CertificateError,
    certificate: SeenCertificate,
}

impl ServerCertVerifier for Describing {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified =
            self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        verified.map_err(|error| match (error, SeenCertificate::read(end_entity)) {
            (rustls::Error::InvalidCertificate(fault), Some(certificate)) => {
                let rejected = OtherError(Arc::new(Rejected { fault, certificate }));
                rustls::Error::InvalidCertificate(CertificateError::Other(rejected))
            }
            (error, _) => error,
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

fn config(roots: RootCertStore) -> ClientConfig {
    let builder = ClientConfig::builder();
    let mut config = match WebPkiServerVerifier::builder(Arc::new(roots.clone())).build() {
        Ok(verifier) => {
            let verifier = Arc::new(Describing(verifier));
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        }
        // Without any root, every certificate is rejected.
        Err(_) => builder.with_root_certificates(roots).with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config
}

fn fault(error: &io::Error) -> TlsFault {
    use CertificateError as Fault;
    let tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    let (certificate, rejected) = match tls {
        Some(rustls::Error::InvalidCertificate(Fault::Other(OtherError(other)))) => {
            match other.downcast_ref::<Rejected>() {
                Some(Rejected { fault, certificate }) => (Some(fault), Some(certificate.clone())),
                None => (None, None),
            }
        }
        Some(rustls::Error::InvalidCertificate(fault)) => (Some(fault), None),
        _ => (None, None),
    };
    let detail = match certificate {
        Some(fault) => match fault {
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
    let is_of_certificate = matches!(tls, Some(rustls::Error::InvalidCertificate(_)));
    TlsFault { is_of_certificate, rejected, ..TlsFault::new(Cause::UpstreamTls, detail) }
}
