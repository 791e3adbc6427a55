//! A second opinion on a ClientHello: rustls' own. It knows the insides of many extensions that the
//! gate does not read, and must find the same name. It is no judge of its own: it is laxer than
//! [`client`](super::client) in versions, early data, name types, dots and surplus.

use rustls::Error;
use rustls::server::Acceptor;

use super::fault::HelloFault;
use super::record::LARGEST_CLEAR;
use crate::policy::Name;

/// Asks about a hello, header included, that our own walk has found right and to name `name`.
///
/// rustls is given the message in the fewest records, since it gives up on many small ones. Where
/// it has no opinion (it can't serve this client, or has no room), our own stands.
pub(super) fn ask(message: &[u8], name: &Name) -> Result<(), HelloFault> {
    let mut acceptor = Acceptor::default();
    for payload in message.chunks(LARGEST_CLEAR) {
        // At most 2^14, which fits.
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
            // What it reads well but would not serve, such as TLS 1.2 without signature_algorithms
            // (RFC 5246 §7.4.1.4.1 allows that), is for the server to answer.
            Err((Error::PeerIncompatible(_), _)) => return Ok(()),
            Err(_) => return Err(HelloFault::Refused),
        }
    }
    // Our walk says that it is whole.
    Err(HelloFault::Refused)
}
