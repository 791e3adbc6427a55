//! The certificates with which the gate answers in inspected tunnels: made on demand by the authority
//! of `[inspect]`, each for one name, and kept in memory only.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::version::{TLS12, TLS13};
use tokio::sync::watch;

use crate::config::Authority;
use crate::policy::Name;

/// HTTP/1.1, the only protocol that is judged (RFC 7301).
const ALPN: &[u8] = b"http/1.1";

/// How far a client's clock may be behind.
const BACKDATED: Duration = Duration::from_secs(60 * 60);

/// A certificate is made anew once this part of its life is left.
const LAST_PART: u32 = 10;

/// At most this many are kept. The names are the policy's, so more are not in use at once.
const MOST: usize = 4_096;

/// Makes and keeps them.
pub struct Leaves {
    authority: watch::Receiver<Option<Arc<Authority>>>,
    known: Mutex<HashMap<Name, Leaf>>,
}

struct Leaf {
    authority: Arc<Authority>,
    config: Arc<ServerConfig>,
    /// When another is made.
    until: SystemTime,
}

impl fmt::Debug for Leaves {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Leaves")
    }
}

/// The reason why no certificate was made.
#[derive(Debug, thiserror::Error)]
pub enum NoLeaf {
    /// The configuration names no authority.
    #[error("there is no authority")]
    NoAuthority,
    /// It could not be signed.
    #[error("the certificate cannot be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// TLS cannot use it.
    #[error("the certificate cannot be used: {0}")]
    Tls(#[from] rustls::Error),
}

impl Leaves {
    /// Creates an empty store.
    #[must_use]
    pub fn new(authority: watch::Receiver<Option<Arc<Authority>>>) -> Self {
        Self { authority, known: Mutex::default() }
    }

    /// Returns the TLS configuration for a name.
    ///
    /// # Errors
    /// Why there is none.
    pub fn config(&self, name: &Name) -> Result<Arc<ServerConfig>, NoLeaf> {
        let authority = self.authority.borrow().clone().ok_or(NoLeaf::NoAuthority)?;
        let now = SystemTime::now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(leaf) = known.get(name)
            && leaf.until > now
            && Arc::ptr_eq(&leaf.authority, &authority)
        {
            return Ok(leaf.config.clone());
        }
        let life = authority.leaf();
        let config = Arc::new(config(&authority, name, now)?);
        if known.len() >= MOST {
            known.clear();
        }
        let until = now + life.saturating_sub(life / LAST_PART);
        known.insert(name.clone(), Leaf { authority, config: config.clone(), until });
        Ok(config)
    }
}

/// Signs a certificate for one name.
fn config(authority: &Authority, name: &Name, now: SystemTime) -> Result<ServerConfig, NoLeaf> {
    let seconds = |time: SystemTime| {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    };
    // Within the validity of the authority.
    let (first, last) = authority.facts().validity;
    let from = seconds(now.checked_sub(BACKDATED).unwrap_or(now)).max(first);
    let until = seconds(now + authority.leaf()).min(last);
    let date = |seconds: i64| {
        let since = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        rcgen::date_time_ymd(1970, 1, 1) + since
    };
    let mut params = CertificateParams::new([name.as_str().to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "pullgate");
    params.not_before = date(from);
    params.not_after = date(until);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, authority.issuer())?;
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.into())?;
    server.alpn_protocols = vec![ALPN.to_vec()];
    Ok(server)
}
