//! The first bytes of TLS, and the classification of responses.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{IpAddr, Ipv4Addr, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::policy::Name;

/// The alert of a gate that denies (RFC 8446 §6.2).
const ACCESS_DENIED: u8 = 49;

/// The alert of a gate that failed.
const INTERNAL_ERROR: u8 = 80;

/// Content types of TLS records.
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;

/// Length of an alert record, in bytes.
pub(super) const ALERT_LENGTH: usize = 7;

/// The classification of the first bytes of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// Too few bytes.
    NeedMore,
    /// A gate denied.
    Refused,
    /// A gate failed.
    Failed,
    /// A TLS server answered.
    Server,
    /// Something else.
    Other,
}

/// Classifies bytes.
pub(super) fn heard(bytes: &[u8]) -> Heard {
    match bytes {
        [ALERT, 3, _, 0, 2, _, ACCESS_DENIED, ..] => Heard::Refused,
        [ALERT, 3, _, 0, 2, _, INTERNAL_ERROR, ..] => Heard::Failed,
        [] => Heard::NeedMore,
        [ALERT, ..] if bytes.len() < ALERT_LENGTH => Heard::NeedMore,
        // Any other alert comes from a server.
        [ALERT | HANDSHAKE, ..] => Heard::Server,
        _ => Heard::Other,
    }
}

/// Returns a ClientHello of TLS 1.2 and 1.3, with or without a name.
///
/// # Errors
/// If the library cannot create one, which does not happen for valid names.
pub(super) fn hello(name: Option<&Name>) -> Result<Vec<u8>, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let roots = RootCertStore::empty();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.enable_sni = name.is_some();
    let server = match name {
        Some(name) => ServerName::try_from(name.as_str().to_owned())
            .map_err(|error| rustls::Error::General(error.to_string()))?,
        // It is not sent.
        None => ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([192, 0, 2, 1]))),
    };
    let mut connection = ClientConnection::new(Arc::new(config), server)?;
    let mut bytes = Vec::new();
    // Writing to memory cannot fail.
    let _ = connection.write_tls(&mut bytes);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hello::{HelloReader, HelloStep};
    use crate::policy::Reason;

    #[test]
    fn the_hello_is_one_that_a_gate_takes() {
        let name = Name::parse("contoso.azurecr.io").unwrap();
        let read = HelloReader::default().feed(&hello(Some(&name)).unwrap());
        let Ok(HelloStep::Complete(hello)) = read else { panic!("{read:?}") };
        assert_eq!(*hello.facts.server_name(), name);
    }

    #[test]
    fn and_without_a_name_it_is_refused_for_that() {
        let read = HelloReader::default().feed(&hello(None).unwrap());
        assert_eq!(read.unwrap_err().reason(), Reason::SniMissing);
    }

    #[test]
    fn answers() {
        for (bytes, expected) in [
            (&[21, 3, 3, 0, 2, 2, 49][..], Heard::Refused),
            (&[21, 3, 1, 0, 2, 2, 49, 0], Heard::Refused),
            (&[21, 3, 3, 0, 2, 2, 80], Heard::Failed),
            (&[21, 3, 3, 0, 2, 2, 40], Heard::Server),
            (&[21, 3, 3, 0, 2, 2], Heard::NeedMore),
            (&[], Heard::NeedMore),
            (&[22, 3, 3, 0, 90, 2], Heard::Server),
            (b"HTTP/1.1 400", Heard::Other),
            (b"SSH-2.0-", Heard::Other),
        ] {
            assert_eq!(heard(bytes), expected, "{bytes:?}");
        }
    }
}
