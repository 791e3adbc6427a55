//! The authority of `[inspect]`: its files, checked against the hosts that are inspected.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{Issuer, KeyPair, PublicKeyData as _};
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::inspect::{AuthorityPaths, InspectTable};
use super::referenced_files::{Readers, ReferencedFile, find};
use super::tls::{Expiry, Maker};
use crate::policy::{Fault, Name};

const AUTHORITY: &str = "make one with `pullgate ca create`";
const RENEW: &str = "run `pullgate ca renew`, and give clients the new certificate";

/// The authority that signs certificates for inspected tunnels. Its key is never printed.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    paths: AuthorityPaths,
    facts: AuthorityFacts,
    leaf: Duration,
}

/// What an authority's certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityFacts {
    /// The names that its name constraints permit; `None` if it has no constraints.
    pub permitted: Option<BTreeSet<String>>,
    /// The first and the last second in which it is valid, in seconds since 1970.
    pub validity: (i64, i64),
    /// Whether it may sign certificates.
    pub is_authority: bool,
    /// Its public key.
    key: Vec<u8>,
}

impl AuthorityFacts {
    /// Reads a certificate; `None` if it is broken.
    #[must_use]
    pub fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let constraints = parsed.name_constraints().ok()?;
        let permitted = constraints.and_then(|found| found.value.permitted_subtrees.as_ref());
        let permitted = permitted.map(|subtrees| {
            let names = subtrees.iter().filter_map(|subtree| match subtree.base {
                GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                _ => None,
            });
            names.collect()
        });
        let validity = parsed.validity();
        Some(Self {
            permitted,
            validity: (validity.not_before.timestamp(), validity.not_after.timestamp()),
            is_authority: parsed.is_ca(),
            key: parsed.public_key().raw.to_vec(),
        })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Authority").field("facts", &self.facts).finish_non_exhaustive()
    }
}

impl Authority {
    /// Returns what signs certificates.
    #[must_use]
    pub fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// Returns what its certificate says.
    #[must_use]
    pub fn facts(&self) -> &AuthorityFacts {
        &self.facts
    }

    /// Returns how long a leaf certificate is valid.
    #[must_use]
    pub fn leaf(&self) -> Duration {
        self.leaf
    }

    /// Returns when it expires.
    #[must_use]
    pub fn expiry(&self) -> Expiry {
        Expiry { path: self.paths.certificate.clone(), last_second: self.facts.validity.1 }
    }
}

/// Reads the authority, and checks that it permits exactly the inspected names.
pub(super) fn make(
    table: &InspectTable,
    files: &[ReferencedFile],
    names: &BTreeSet<Name>,
    (faults, warnings): (&mut Vec<Fault>, &mut Vec<Fault>),
) -> Option<Arc<Authority>> {
    let maker = Maker { files, place: &table.place };
    match read(table, &maker, names) {
        Ok(authority) => {
            let permitted = authority.facts.permitted.iter().flatten();
            let is_needed = |name: &str| names.iter().any(|one| one.as_str() == name);
            let beyond: Vec<&str> =
                permitted.map(String::as_str).filter(|name| !is_needed(name)).collect();
            if !beyond.is_empty() {
                let what = format!("it permits more than is inspected: {}", beyond.join(", "));
                warnings.push(maker.bad(&table.authority.certificate, &what, RENEW));
            }
            Some(Arc::new(authority))
        }
        Err(fault) => {
            faults.push(fault);
            None
        }
    }
}

fn read(
    table: &InspectTable,
    maker: &Maker<'_>,
    names: &BTreeSet<Name>,
) -> Result<Authority, Fault> {
    let paths = &table.authority;
    let content = maker.content(&paths.key);
    let key = content.map_err(|fault| Fault { remedy: AUTHORITY.into(), ..fault })?;
    if find(maker.files, &paths.key).is_some_and(|file| file.readers == Readers::Everybody) {
        let what = "every user of this machine can read the key";
        return Err(maker.bad(&paths.key, what, "chmod 600 it, and make another authority"));
    }
    let key = std::str::from_utf8(key.expose()).ok().and_then(|pem| KeyPair::from_pem(pem).ok());
    let key = key
        .ok_or_else(|| maker.bad(&paths.key, "it is no private key in PEM (PKCS #8)", AUTHORITY))?;
    let all = maker.all::<CertificateDer<'static>>(&paths.certificate, "certificate", AUTHORITY)?;
    let bad = |what: &str, remedy| maker.bad(&paths.certificate, what, remedy);
    // Older certificates of the same key follow, for clients.
    let first = all.first().ok_or_else(|| bad("it contains no certificate", AUTHORITY))?;
    let facts = AuthorityFacts::read(first).ok_or_else(|| bad("it is broken", AUTHORITY))?;
    if !facts.is_authority {
        return Err(bad("it is not the certificate of an authority", AUTHORITY));
    }
    if facts.key != key.subject_public_key_info() {
        let what = format!("it is not the certificate of the key {}", paths.key.display());
        return Err(bad(&what, AUTHORITY));
    }
    let Some(permitted) = &facts.permitted else {
        let what = "it has no name constraints, so its key could impersonate every host";
        return Err(bad(what, AUTHORITY));
    };
    let absent: Vec<&str> =
        names.iter().map(Name::as_str).filter(|name| !permitted.contains(*name)).collect();
    if !absent.is_empty() {
        let what = format!("its name constraints do not permit {}", absent.join(", "));
        return Err(bad(&what, RENEW));
    }
    let issuer = Issuer::from_ca_cert_der(first, key);
    let issuer = issuer.map_err(|error| bad(&error.to_string(), AUTHORITY))?;
    Ok(Authority { issuer, paths: paths.clone(), facts, leaf: table.leaf })
}
