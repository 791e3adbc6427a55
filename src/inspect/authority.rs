//! Makes the authority of `[inspect]`: a thief of its key can impersonate the inspected hosts to
//! those clients that trust it, and nothing else.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyPair, KeyUsagePurpose, NameConstraints,
    PublicKeyData as _,
};

use crate::policy::Name;

/// How long an authority is valid, and how far a client's clock may be behind.
const VALIDITY: Duration = Duration::from_secs(90 * 24 * 60 * 60);
const BACKDATED: Duration = Duration::from_secs(24 * 60 * 60);

/// Bytes of the key's digest in the authority's name.
const NAMED: usize = 8;

/// A new authority, as PEM.
pub struct NewAuthority {
    /// Its certificate.
    pub certificate: String,
    /// Its private key. Never to be printed.
    pub key: String,
}

/// Makes an authority with a new key that permits exactly these names.
///
/// # Errors
/// If the system has no random numbers.
pub fn create(names: &BTreeSet<Name>, now: SystemTime) -> Result<NewAuthority, rcgen::Error> {
    let key = KeyPair::generate()?;
    let certificate = certificate(names, &key, now)?;
    Ok(NewAuthority { certificate, key: key.serialize_pem() })
}

/// Makes another certificate for the key of an authority. What either certificate has signed is valid
/// for clients that trust one of them.
///
/// # Errors
/// If the key is none.
pub fn renew(names: &BTreeSet<Name>, key: &str, now: SystemTime) -> Result<String, rcgen::Error> {
    certificate(names, &KeyPair::from_pem(key)?, now)
}

fn certificate(
    names: &BTreeSet<Name>,
    key: &KeyPair,
    now: SystemTime,
) -> Result<String, rcgen::Error> {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    // The same key has the same name, so that a renewed certificate takes the place of the old one.
    let mut name = "pullgate inspect ".to_owned();
    for byte in digest(&SHA256, &key.subject_public_key_info()).as_ref().iter().take(NAMED) {
        let _ = write!(name, "{byte:02x}");
    }
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = epoch + since.saturating_sub(BACKDATED);
    params.not_after = epoch + since + VALIDITY;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let permitted = names.iter().map(|name| GeneralSubtree::DnsName(name.as_str().to_owned()));
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: permitted.collect(),
        // Otherwise addresses would not be constrained at all (RFC 5280 §4.2.1.10).
        excluded_subtrees: vec![
            GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])),
            GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])),
        ],
    });
    Ok(params.self_signed(key)?.pem())
}
