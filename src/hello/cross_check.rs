//! Checks a ClientHello with rustls. rustls parses many extensions that the gate does not read, and
//! must find the same name. It does not replace our own parser: it accepts more versions, early
//! data, name types, dots and trailing bytes than [`client`](super::client).

use rustls::Error;
use rustls::server::Acceptor;

use super::fault::HelloFault;
use super::record::LARGEST_CLEAR;
use crate::policy::Name;

/// Checks a ClientHello, header included, that our parser accepted with this name.
///
/// rustls gets the message in as few records as possible, because it rejects many small ones. If
/// rustls gives no result (it cannot serve this client or has no room), the result of our parser
/// counts.
pub(super) fn ask(message: &[u8], name: &Name) -> Result<(), HelloFault> {
    let mut acceptor = Acceptor::default();
    for payload in message.chunks(LARGEST_CLEAR) {
        // At most 2^14, so the conversion cannot fail.
        let [high, low] = u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes();
        for mut part in [&[22, 3, 3, high, low], payload] {
            while !part.is_empty() {
                if acceptor.read_tls(&mut part).is_err() {
                    return Ok(());
                }
            }
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let agrees = hello.server_name() == Some(name.as_str());
                return if agrees { Ok(()) } else { Err(HelloFault::NamedOtherwise) };
            }
            // The server must answer a valid ClientHello that rustls would not serve, for example
            // TLS 1.2 without signature_algorithms (allowed by RFC 5246 §7.4.1.4.1).
            Err((Error::PeerIncompatible(_), _)) => return Ok(()),
            Err(_) => return Err(HelloFault::Refused),
        }
    }
    // Our parser found the message complete.
    Err(HelloFault::Refused)
}
