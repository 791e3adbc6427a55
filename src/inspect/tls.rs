//! Ends the client's TLS in an inspected tunnel, with a certificate of the operator's authority.

use std::io;
use std::sync::Arc;

use rustls::{AlertDescription, ServerConfig};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;

use super::stream::{GuardedHandshake, InnerStream, Violation};
use crate::account::AuditText;
use crate::hello::Hello;
use crate::listen::tls::ClientStream;
use crate::policy::{Cause, Denial, Failure, Reason, Side, Stop};
use crate::relay::Closing;

/// Why there is none.
pub(super) struct NoInnerTls {
    pub(super) stop: Stop,
    /// What TLS has found wrong.
    pub(super) fault: Option<AuditText>,
    /// The connection on which the client is sent the reason.
    pub(super) closing: Option<Closing<ClientStream>>,
}

/// Accepts the handshake whose first message was judged.
pub(super) async fn accept(
    config: Arc<ServerConfig>,
    client: ClientStream,
    hello: Hello,
    by: Instant,
) -> Result<(InnerStream, Violation), NoInnerTls> {
    let stream = GuardedHandshake::new(client, hello);
    let violation = stream.violation();
    let accepting = TlsAcceptor::from(config).accept(stream).into_fallible();
    let (error, stream) = match timeout_at(by, accepting).await {
        Ok(Ok(stream)) => return Ok((stream, violation)),
        Ok(Err(failed)) => failed,
        // In the middle of a handshake, the client could not read an alert.
        Err(_) => {
            let stop = Reason::HelloTimeout.into();
            return Err(NoInnerTls { stop, fault: None, closing: None });
        }
    };
    let (client, was_served) = stream.into_inner();
    if let Some(cut) = violation.get() {
        let stop = Stop::from(cut.reason());
        let fault = Some(AuditText::new(&cut.to_string()));
        let closing = match was_served {
            true => Closing::in_order(client),
            false => Closing::with_alert(client, &stop),
        };
        return Err(NoInnerTls { stop, fault, closing: Some(closing) });
    }
    let (stop, fault) = meaning(&error);
    // The TLS library has sent its alert.
    Err(NoInnerTls { stop, fault, closing: Some(Closing::in_order(client)) })
}

/// What an error of the TLS library means.
fn meaning(error: &io::Error) -> (Stop, Option<AuditText>) {
    let of_client = |cause| Stop::from(Failure { side: Side::Client, cause });
    let tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    let Some(tls) = tls else { return (of_client(Cause::ClientAborted), None) };
    let stop = match tls {
        rustls::Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::UnsupportedCertificate,
        ) => of_client(Cause::AuthorityNotTrusted),
        rustls::Error::AlertReceived(_) => of_client(Cause::ClientAborted),
        rustls::Error::NoApplicationProtocol => {
            let remedy = "an inspected tunnel carries HTTP/1.1 only";
            Denial::with_remedy(Reason::ProtocolNotAllowed, remedy).into()
        }
        _ => Reason::ProxyTls.into(),
    };
    (stop, Some(AuditText::new(&tls.to_string())))
}
