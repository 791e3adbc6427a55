//! Certificates of the servers and authorities of a run.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};

use crate::wire::{DATA, LOGIN};

/// A self-signed certificate and its key, for ECDSA with P-256.
pub struct Certificate {
    pub der: Vec<u8>,
    /// In the form PKCS #8.
    pub key: Vec<u8>,
}

impl Certificate {
    /// Returns a certificate for both hosts and for the loopback address.
    pub fn of_hosts() -> anyhow::Result<Self> {
        let names = [LOGIN, DATA, "127.0.0.1"].map(str::to_owned);
        Self::made(&CertificateParams::new(names)?)
    }

    /// Returns an authority that can sign certificates.
    pub fn of_authority() -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        Self::made(&params)
    }

    fn made(params: &CertificateParams) -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let made = params.self_signed(&key)?;
        Ok(Self { der: made.der().to_vec(), key: key.serialize_der() })
    }

    /// Returns both as PEM, the certificate first.
    pub fn bundle(&self) -> String {
        pem("CERTIFICATE", &self.der) + &pem("PRIVATE KEY", &self.key)
    }

    /// Writes `certificate.pem` and `key.pem` into a folder. Returns their paths.
    pub fn write(&self, folder: &Path) -> anyhow::Result<(PathBuf, PathBuf)> {
        let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
        fs::write(&certificate, pem("CERTIFICATE", &self.der))?;
        fs::write(&key, pem("PRIVATE KEY", &self.key))?;
        Ok((certificate, key))
    }
}

/// Encodes bytes as PEM.
pub fn pem(what: &str, der: &[u8]) -> String {
    let lines: Vec<String> = STANDARD
        .encode(der)
        .as_bytes()
        .chunks(64)
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect();
    format!("-----BEGIN {what}-----\n{}\n-----END {what}-----\n", lines.join("\n"))
}
