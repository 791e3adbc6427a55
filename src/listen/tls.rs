//! TLS with a client: the handshake and the client certificate. A rejected client has got an alert,
//! and the plain connection is returned to be closed in order.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::Acceptor;
use rustls::{CertificateError, HandshakeKind};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::account::AuditText;
use crate::config::Tls;
use crate::policy::{Cause, CertificateNames, Denial, Failure, Reason, Side, Stop};

/// A client connection, with or without TLS.
pub type ClientStream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Combines the final bytes and FIN in one packet, so that the client is woken once: they are sent
/// when the connection is shut down or closed. If the option is unsupported, they are sent
/// separately.
pub fn cork(client: &ClientStream) {
    let socket = match client {
        Either::Left(socket) => socket,
        Either::Right(stream) => stream.get_ref().0,
    };
    let _ = SockRef::from(socket).set_tcp_cork(true);
}

/// The content type of a TLS handshake record (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;

/// The certificate of a client, with the chain that it sent.
#[derive(Debug, Clone)]
pub struct ClientCertificate {
    chain: Vec<CertificateDer<'static>>,
}

/// Why there is no TLS session.
#[derive(Debug)]
pub enum NoTls {
    /// It was aborted by `until`.
    Ended {
        /// The reason.
        stop: Stop,
        /// The connection to be closed; `None` in the middle of a handshake.
        socket: Option<TcpStream>,
    },
    /// The client closed, or the connection failed.
    Gone,
    /// The client speaks HTTP without TLS, and gets an HTTP answer.
    Clear(TcpStream),
    /// The client was rejected with an alert.
    Refused {
        /// The reason.
        stop: Stop,
        /// The error.
        fault: AuditText,
        /// The connection to be closed.
        socket: TcpStream,
    },
}

/// Accepts a TLS handshake, unless `until` resolves before.
///
/// # Errors
/// Why there is no TLS session.
pub async fn accept(
    tls: &Tls,
    socket: TcpStream,
    mut until: Pin<&mut impl Future<Output = Stop>>,
) -> Result<(Box<TlsStream<TcpStream>>, Option<ClientCertificate>), NoTls> {
    let mut first = [0];
    tokio::select! {
        biased;
        peeked = socket.peek(&mut first) => match peeked {
            Err(_) | Ok(0) => return Err(NoTls::Gone),
            Ok(_) if first != [HANDSHAKE] => return Err(NoTls::Clear(socket)),
            Ok(_) => {}
        },
        stop = until.as_mut() => return Err(NoTls::Ended { stop, socket: Some(socket) }),
    }
    let mut hello = LazyConfigAcceptor::new(Acceptor::default(), socket);
    let started = tokio::select! {
        biased;
        started = &mut hello => started,
        stop = until.as_mut() => {
            return Err(NoTls::Ended { stop, socket: hello.take_io() });
        }
    };
    let started = match (started, hello.take_io()) {
        (Ok(started), _) => started,
        (Err(error), Some(socket)) => return Err(refusal(&error, socket)),
        (Err(_), None) => return Err(NoTls::Gone),
    };
    let accepted = tokio::select! {
        biased;
        accepted = started.into_stream(tls.server.clone()).into_fallible() => accepted,
        stop = until => return Err(NoTls::Ended { stop, socket: None }),
    };
    let stream = accepted.map_err(|(error, socket)| refusal(&error, socket))?;
    let (_, session) = stream.get_ref();
    let chain = session.peer_certificates().map(<[_]>::to_vec);
    let certificate = chain.map(|chain| ClientCertificate { chain });
    // A resumed session was verified when it began.
    if let (Some(certificate), Some(HandshakeKind::Resumed)) =
        (&certificate, session.handshake_kind())
        && let Err(error) = certificate.judge_by(tls)
    {
        let fault = describe(&error);
        let (socket, _) = stream.into_inner();
        return Err(NoTls::Refused { stop: rejected(&error).into(), fault, socket });
    }
    Ok((Box::new(stream), certificate))
}

impl ClientCertificate {
    /// Verifies it now: chain, validity, usage, revocation.
    ///
    /// # Errors
    /// Why it is invalid.
    pub fn judge_by(&self, tls: &Tls) -> Result<(), rustls::Error> {
        let Some(judge) = &tls.judge else { return Ok(()) };
        let Some((leaf, between)) = self.chain.split_first() else {
            return Err(rustls::Error::NoCertificatesPresented);
        };
        judge.verify_client_cert(leaf, between, UnixTime::now()).map(|_| ())
    }

    /// Returns when the next certificate in the chain expires after `now`; `None` if all have
    /// expired.
    #[must_use]
    pub fn next_expiry(&self, now: SystemTime) -> Option<SystemTime> {
        self.chain.iter().filter_map(expiry).filter(|expiry| *expiry > now).min()
    }

    /// Returns its DNS names and URIs (subjectAltName). The common name is ignored.
    #[must_use]
    pub fn names(&self) -> CertificateNames {
        let leaf = self.chain.first().and_then(|leaf| webpki::EndEntityCert::try_from(leaf).ok());
        let Some(leaf) = leaf else { return CertificateNames::default() };
        CertificateNames::new(leaf.valid_dns_names(), leaf.valid_uri_names())
    }
}

/// Returns the first second in which a certificate is no longer valid.
fn expiry(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let last_second = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(last_second.checked_add(1)?))
}

fn refusal(error: &io::Error, socket: TcpStream) -> NoTls {
    let Some(tls) = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) else {
        return NoTls::Gone;
    };
    let stop = match tls {
        // The client rejected the gate.
        rustls::Error::AlertReceived(_) => {
            Failure { side: Side::Client, cause: Cause::ClientAborted }.into()
        }
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
            rejected(tls).into()
        }
        _ => Reason::ProxyTls.into(),
    };
    NoTls::Refused { stop, fault: describe(tls), socket }
}

fn rejected(error: &rustls::Error) -> Denial {
    let reason = Reason::CertificateRejected;
    fault_of(error).map_or(Denial::new(reason), |fault| Denial::with_remedy(reason, fault))
}

/// Describes an error, in our words if we have any, otherwise in the library's.
fn describe(error: &rustls::Error) -> AuditText {
    fault_of(error).map_or_else(|| AuditText::new(&error.to_string()), AuditText::new)
}

/// Describes what is wrong with a certificate.
fn fault_of(error: &rustls::Error) -> Option<&'static str> {
    use CertificateError as Fault;
    Some(match error {
        rustls::Error::NoCertificatesPresented => "none was sent",
        rustls::Error::InvalidCertificate(fault) => match fault {
            Fault::Expired | Fault::ExpiredContext { .. } => "it has expired",
            Fault::NotValidYet | Fault::NotValidYetContext { .. } => "it is not valid yet",
            Fault::Revoked => "it has been revoked",
            Fault::UnknownIssuer => "its authority is unknown",
            Fault::UnknownRevocationStatus => "no revocation list covers it",
            Fault::ExpiredRevocationList | Fault::ExpiredRevocationListContext { .. } => {
                "the revocation list has expired"
            }
            Fault::InvalidPurpose | Fault::InvalidPurposeContext { .. } => {
                "it is not for clients (clientAuth)"
            }
            Fault::BadSignature => "its signature is wrong",
            _ => return None,
        },
        _ => return None,
    })
}
