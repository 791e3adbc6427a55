//! TLS with clients: the paths in a listener's `tls`, and the configuration built from these files.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ServerSessionMemoryCache, VerifierBuilderError, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::referenced_files::{Readers, ReferencedFile, Secret, find};
use super::source::Source;
use super::table::{OneOrMany, Table};
use crate::policy::{Fault, Located, Location};

/// Maximum number of sessions that can be resumed, for each listener.
const RESUMED: usize = 4_096;

/// HTTP/1.1, the protocol of the gate inside TLS (RFC 7301).
const ALPN: &[u8] = b"http/1.1";

/// The `tls` of a listener: the paths of its files.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TlsPaths {
    /// The certificate of the gate and its intermediates.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// How clients authenticate, if they are asked to.
    pub clients: Option<ClientPaths>,
}

/// How client certificates are verified.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientPaths {
    /// The certificate authorities.
    pub authorities: PathBuf,
    /// Their revocation lists.
    pub revocations: Vec<PathBuf>,
    /// Whether clients can connect without a certificate.
    pub presence: Presence,
}

/// Whether clients must have a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Presence {
    /// Required.
    Required,
    /// Optional. A certificate that is sent is still verified.
    Optional,
}

impl TlsPaths {
    /// Returns all paths.
    pub(super) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        let of_clients = self.clients.iter();
        let of_clients = of_clients
            .flat_map(|clients| [&clients.authorities].into_iter().chain(&clients.revocations));
        [&self.certificate, &self.key].into_iter().chain(of_clients)
    }
}

/// The TLS configuration of a listener.
#[derive(Clone)]
pub struct Tls {
    /// The configuration of the handshake. It requests a certificate if there is a verifier.
    pub server: Arc<ServerConfig>,
    /// Verifies client certificates: chain, validity, usage, revocation.
    pub judge: Option<Arc<dyn ClientCertVerifier>>,
    /// When each file of certificates expires.
    pub expiries: Vec<Expiry>,
}

/// When a file of certificates expires.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expiry {
    /// The file.
    pub path: PathBuf,
    /// The last second in which it is valid, in seconds since 1970.
    pub last_second: i64,
}

/// How long before a certificate expires there is a warning, in seconds: two weeks.
const EXPIRES_SOON: i64 = 14 * 24 * 60 * 60;

/// Returns when each file of certificates expires, each once, in the order of their paths.
/// `authority`: when that of `[inspect]` does.
#[must_use]
pub fn expiries(listeners: &TlsOfListeners, authority: Option<Expiry>) -> Vec<Expiry> {
    let listeners = listeners.values().flat_map(|tls| tls.expiries.clone());
    let mut all: Vec<Expiry> = listeners.chain(authority).collect();
    all.sort();
    all.dedup();
    all
}

/// Returns a warning for each file of certificates that has expired or expires soon. `now`: in seconds
/// since 1970.
#[must_use]
pub fn expiry_warnings(
    listeners: &TlsOfListeners,
    authority: Option<Expiry>,
    now: i64,
) -> Vec<String> {
    let warning = |Expiry { path, last_second }: Expiry| {
        let left = last_second.saturating_sub(now);
        let path = path.display();
        if left < 0 {
            Some(format!("{path}: the certificate has expired; renew it, clients reject it"))
        } else if left < EXPIRES_SOON {
            let days = left / (24 * 60 * 60);
            Some(format!("{path}: the certificate expires in {days} days; renew it"))
        } else {
            None
        }
    };
    expiries(listeners, authority).into_iter().filter_map(warning).collect()
}

fn last_second(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

impl fmt::Debug for Tls {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let judges = self.judge.as_ref().map(|_| "clients");
        out.debug_struct("Tls").field("judges", &judges).finish_non_exhaustive()
    }
}

/// The TLS of every listener that has one.
pub type TlsOfListeners = HashMap<TlsPaths, Tls>;

/// Parses the `tls` of a listener.
pub(super) fn read(
    source: &Source<'_>,
    mut table: Table<'_>,
    beside: impl Fn(&str) -> PathBuf,
) -> Option<Located<TlsPaths>> {
    let place = table.place().clone();
    let mut path = |key: &'static str| {
        let written = table.string(key);
        if written.is_none() && !table.has(key) {
            let remedy = "write tls = { certificate = \"tls/gate.pem\", key = \"tls/gate.key\" }";
            source.missing(table.place(), format!("tls has no {key}"), remedy);
        }
        written.map(|written| beside(&written.value))
    };
    let (certificate, key) = (path("certificate"), path("key"));
    let authorities = table.string("client-ca");
    let revocations = match table.string_or_strings("client-crls") {
        Some(OneOrMany::One(one)) => vec![one],
        Some(OneOrMany::Many(many)) => many,
        None => Vec::new(),
    };
    let presence = table.string("client-certificates");
    table.finish();
    let presence_of = |written: &Located<String>| match written.value.as_str() {
        "required" => Presence::Required,
        "optional" => Presence::Optional,
        other => {
            let what = format!("client-certificates {other:?} is unknown");
            let remedy = "write \"required\" or \"optional\"";
            source.fault(written.place.clone(), what, remedy);
            Presence::Required
        }
    };
    let clients = match authorities {
        Some(authorities) => Some(ClientPaths {
            authorities: beside(&authorities.value),
            revocations: revocations.iter().map(|one| beside(&one.value)).collect(),
            presence: presence.as_ref().map_or(Presence::Required, presence_of),
        }),
        None => {
            let without =
                [("client-crls", revocations.first()), ("client-certificates", presence.as_ref())];
            for (key, written) in without {
                let Some(written) = written else { continue };
                let what = format!("{key} without client-ca has no effect");
                source.fault(written.place.clone(), what, "write client-ca = \"tls/clients.pem\"");
            }
            None
        }
    };
    Some(Located { value: TlsPaths { certificate: certificate?, key: key?, clients }, place })
}

/// An error about one file.
type FileError = (String, &'static str);

/// Builds the TLS configuration from the files, and reports every error in them.
pub(super) fn make(
    listeners: &[Located<TlsPaths>],
    files: &[ReferencedFile],
) -> (TlsOfListeners, Vec<Fault>, Vec<Fault>) {
    let (mut made, mut faults, mut warnings) = (HashMap::new(), Vec::new(), Vec::new());
    for Located { value: paths, place } in listeners {
        let maker = Maker { files, place };
        match maker.tls(paths) {
            Ok(tls) => drop(made.insert(paths.clone(), tls)),
            Err(fault) => faults.push(fault),
        }
        let key = find(files, &paths.key).filter(|key| key.readers == Readers::Everybody);
        if key.is_some() {
            warnings.push(maker.fault((
                format!("{}: everybody on this machine may read the key", paths.key.display()),
                "chmod o-r it",
            )));
        }
    }
    (made, faults, warnings)
}

/// Makes TLS of files, and says what is wrong with them at the place that names them.
pub(super) struct Maker<'a> {
    pub(super) files: &'a [ReferencedFile],
    pub(super) place: &'a Location,
}

impl Maker<'_> {
    fn fault(&self, (what, remedy): FileError) -> Fault {
        Fault { place: self.place.clone(), what, remedy: remedy.into() }
    }

    fn tls(&self, paths: &TlsPaths) -> Result<Tls, Fault> {
        const ALL_OF_THEM: &str =
            "write it as PEM: the gate's certificate first, then its intermediates";
        const UNENCRYPTED: &str = "write it as PEM, without a passphrase";
        const USABLE: &str = "make a key for ECDSA P-256, P-384 or P-521, Ed25519, or RSA with 2048 \
             to 8192 bits, and have a certificate issued for it";
        let chain: Vec<CertificateDer<'static>> =
            self.all(&paths.certificate, "certificate", ALL_OF_THEM)?;
        let key = self.content(&paths.key)?;
        let key = PrivateKeyDer::from_pem_slice(key.expose());
        let key =
            key.map_err(|_| self.bad(&paths.key, "it contains no private key", UNENCRYPTED))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        provider
            .key_provider
            .load_private_key(key.clone_key())
            .map_err(|_| self.bad(&paths.key, "it is a kind of key that TLS cannot use", USABLE))?;
        let mut expiries = Vec::new();
        if let Some(last_second) = chain.iter().filter_map(last_second).min() {
            expiries.push(Expiry { path: paths.certificate.clone(), last_second });
        }
        let judge = match &paths.clients {
            Some(clients) => {
                let (judge, expiry) = self.judge(clients)?;
                expiries.extend(expiry);
                Some(judge)
            }
            None => None,
        };
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| self.bad(&paths.certificate, &error.to_string(), ALL_OF_THEM))?;
        let builder = match &judge {
            Some(judge) => builder.with_client_cert_verifier(judge.clone()),
            None => builder.with_no_client_auth(),
        };
        let mut server = builder.with_single_cert(chain, key).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => self.bad(
                &paths.key,
                &format!("it is not the key of {}", paths.certificate.display()),
                "put the certificate and its key there together",
            ),
            error => self.bad(&paths.certificate, &error.to_string(), ALL_OF_THEM),
        })?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        // A reload builds a new one, so that sessions accepted by older rules cannot be resumed.
        server.session_storage = ServerSessionMemoryCache::new(RESUMED);
        Ok(Tls { server: Arc::new(server), judge, expiries })
    }

    /// Returns what judges clients, and when the last of the authorities expires.
    fn judge(
        &self,
        paths: &ClientPaths,
    ) -> Result<(Arc<dyn ClientCertVerifier>, Option<Expiry>), Fault> {
        const AUTHORITIES: &str = "write the authorities' certificates as PEM";
        const REVOCATIONS: &str = "write it as PEM, as openssl ca -gencrl does";
        let mut roots = RootCertStore::empty();
        let mut last = None;
        for authority in self.all(&paths.authorities, "certificate", AUTHORITIES)? {
            last = last.max(last_second(&authority));
            roots
                .add(authority)
                .map_err(|error| self.bad(&paths.authorities, &error.to_string(), AUTHORITIES))?;
        }
        let mut revocations: Vec<CertificateRevocationListDer<'static>> = Vec::new();
        for path in &paths.revocations {
            revocations.extend(self.all(path, "list of revocations", REVOCATIONS)?);
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            // An expired revocation list is ignored.
            .enforce_revocation_expiration()
            .with_crls(revocations);
        let builder = match paths.presence {
            Presence::Required => builder,
            Presence::Optional => builder.allow_unauthenticated(),
        };
        let expiry =
            last.map(|last_second| Expiry { path: paths.authorities.clone(), last_second });
        let judge = builder.build().map_err(|error| match error {
            VerifierBuilderError::InvalidCrl(error) => {
                let which = paths.revocations.first().unwrap_or(&paths.authorities);
                self.bad(which, &format!("{error:?}"), REVOCATIONS)
            }
            error => self.bad(&paths.authorities, &error.to_string(), AUTHORITIES),
        })?;
        Ok((judge, expiry))
    }

    /// Every item of a file; at least one.
    pub(super) fn all<T: PemObject>(
        &self,
        path: &Path,
        what: &str,
        remedy: &'static str,
    ) -> Result<Vec<T>, Fault> {
        let items: Result<Vec<T>, pem::Error> =
            T::pem_slice_iter(self.content(path)?.expose()).collect();
        match items {
            Ok(items) if !items.is_empty() => Ok(items),
            Ok(_) => Err(self.bad(path, &format!("it contains no {what}"), remedy)),
            Err(error) => Err(self.bad(path, &error.to_string(), remedy)),
        }
    }

    pub(super) fn content(&self, path: &Path) -> Result<&Secret, Fault> {
        let remedy = "create it, readable for the gate's user";
        match find(self.files, path).map(|file| file.content.as_ref()) {
            Some(Ok(content)) => Ok(content),
            Some(Err(error)) => Err(self.bad(path, &format!("it cannot be read: {error}"), remedy)),
            None => Err(self.bad(path, "it was not read", remedy)),
        }
    }

    pub(super) fn bad(&self, path: &Path, what: &str, remedy: &'static str) -> Fault {
        self.fault((format!("{}: {what}", path.display()), remedy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate and its key, as PEM.
    fn made() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn file(path: &str, content: &str) -> ReferencedFile {
        let content = Ok(content.as_bytes().to_vec().into());
        ReferencedFile { path: path.into(), content, readers: Readers::Few }
    }

    #[test]
    fn files_and_what_is_said_of_them() {
        let ((certificate, key), (_, another)) = (made(), made());
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n\
                         -----END ENCRYPTED PRIVATE KEY-----\n";
        let files = [
            file("gate.pem", &certificate),
            file("gate.key", &key),
            file("another.key", &another),
            file("encrypted.key", encrypted),
            file("empty.pem", "nothing"),
            file("bad.crl", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"),
        ];
        // Key, authorities, list of revocations, and what is said.
        let cases = [
            ("gate.key", None, None, None),
            ("gate.key", Some("gate.pem"), None, None),
            ("another.key", None, None, Some("another.key: it is not the key of gate.pem")),
            ("encrypted.key", None, None, Some("encrypted.key: it contains no private key")),
            ("gate.key", Some("empty.pem"), None, Some("empty.pem: it contains no certificate")),
            ("gate.key", Some("gate.pem"), Some("gate.pem"), Some("gate.pem: it contains no list")),
            ("gate.key", Some("gate.pem"), Some("bad.crl"), Some("bad.crl: ")),
        ];
        for (key, authorities, revocations, expected) in cases {
            let clients = authorities.map(|authorities: &str| ClientPaths {
                authorities: authorities.into(),
                revocations: revocations.into_iter().map(PathBuf::from).collect(),
                presence: Presence::Required,
            });
            let value = TlsPaths { certificate: "gate.pem".into(), key: key.into(), clients };
            let place = Location { file: "pullgate.toml".into(), line: 4 };
            let (made, faults, _) = make(&[Located { value, place }], &files);
            let said = faults.first().map(|fault| fault.what.clone());
            match expected {
                None => assert_eq!((made.len(), said), (1, None)),
                Some(expected) => {
                    assert!(
                        said.is_some_and(|said| said.starts_with(expected)),
                        "{key} {expected}"
                    );
                }
            }
        }
    }

    /// The keys are made with `openssl ecparam -genkey`, `openssl genpkey` and `openssl genrsa
    /// -traditional`; they protect nothing.
    #[test]
    fn a_key_that_tls_cannot_use_is_named_with_a_remedy() {
        let (certificate, _) = made();
        let fault = |name, key| {
            let files = [file("gate.pem", &certificate), file("gate.key", key)];
            let value =
                TlsPaths { certificate: "gate.pem".into(), key: "gate.key".into(), clients: None };
            let place = Location { file: "pullgate.toml".into(), line: 4 };
            let (made, faults, _) = make(&[Located { value, place }], &files);
            assert!(made.is_empty(), "{name}");
            let [fault] = &*faults else { panic!("{name}: {faults:?}") };
            (fault.what.clone(), fault.remedy.clone())
        };
        for (name, key) in [
            ("secp256k1, PKCS #8", include_str!("../../tests/data/keys/secp256k1.pem")),
            ("secp256k1, SEC 1", include_str!("../../tests/data/keys/secp256k1-sec1.pem")),
            ("RSA-1024, PKCS #8", include_str!("../../tests/data/keys/rsa-1024.pem")),
            ("RSA-1024, PKCS #1", include_str!("../../tests/data/keys/rsa-1024-pkcs1.pem")),
        ] {
            let (what, remedy) = fault(name, key);
            assert_eq!(what, "gate.key: it is a kind of key that TLS cannot use", "{name}");
            assert_eq!(
                remedy,
                "make a key for ECDSA P-256, P-384 or P-521, Ed25519, or RSA with 2048 to 8192 bits, \
                 and have a certificate issued for it",
                "{name}"
            );
        }
        // A key that TLS can use is compared with the certificate.
        let (what, _) = fault("P-521", include_str!("../../tests/data/keys/p521.pem"));
        assert_eq!(what, "gate.key: it is not the key of gate.pem");
    }

    #[test]
    fn certificates_that_expire_are_warned_of() {
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        let files = [file("gate.pem", &certificate), file("gate.key", &key.serialize_pem())];
        let value =
            TlsPaths { certificate: "gate.pem".into(), key: "gate.key".into(), clients: None };
        let place = Location { file: "pullgate.toml".into(), line: 4 };
        let (made, ..) = make(&[Located { value, place }], &files);
        const DAY: i64 = 24 * 60 * 60;
        let end = 1_893_456_000;
        for (now, expected) in [
            (end - 15 * DAY, None),
            (end - 3 * DAY, Some("gate.pem: the certificate expires in 3 days")),
            (end + 1, Some("gate.pem: the certificate has expired")),
        ] {
            let warnings = expiry_warnings(&made, None, now);
            let warning = warnings.first().map(String::as_str);
            match expected {
                None => assert_eq!(warning, None),
                Some(expected) => assert!(warning.unwrap().starts_with(expected), "{warning:?}"),
            }
        }
        assert_eq!(expiries(&made, None)[0].last_second, end);
    }

    #[test]
    fn a_key_that_everybody_may_read_is_warned_of() {
        let (certificate, key) = made();
        let key = ReferencedFile { readers: Readers::Everybody, ..file("gate.key", &key) };
        let value =
            TlsPaths { certificate: "gate.pem".into(), key: "gate.key".into(), clients: None };
        let place = Location { file: "pullgate.toml".into(), line: 4 };
        let (_, faults, warnings) =
            make(&[Located { value, place }], &[file("gate.pem", &certificate), key]);
        assert_eq!((faults.len(), warnings.len()), (0, 1));
    }
}
