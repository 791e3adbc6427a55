//! The laboratory's certificate authority, its one server certificate, and the key that signs the
//! registries' tokens.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

pub struct Pki {
    /// The CA certificate, for SSL_CERT_FILE.
    pub authority: PathBuf,
    /// Certificate and key of the servers.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// The token signer's certificate: the registry's `rootcertbundle`.
    pub signer: PathBuf,
    pub signer_der: Vec<u8>,
    /// Its key, PKCS #8.
    pub signer_key: Vec<u8>,
}

impl Pki {
    pub fn new(dir: &Path, hosts: &[&str]) -> Self {
        let authority_key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::default();
        authority.distinguished_name.push(DnType::CommonName, "pullgate test authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority_pem = authority.self_signed(&authority_key).unwrap().pem();
        let issuer = Issuer::new(authority, authority_key);

        let server_key = KeyPair::generate().unwrap();
        let names: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let mut server = CertificateParams::new(names).unwrap();
        server.distinguished_name.push(DnType::CommonName, "pullgate test server");
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let server_pem = server.signed_by(&server_key, &issuer).unwrap().pem();

        let signer_key = KeyPair::generate().unwrap();
        let mut signer = CertificateParams::default();
        signer.distinguished_name.push(DnType::CommonName, "pullgate test tokens");
        signer.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let signer_certificate = signer.self_signed(&signer_key).unwrap();

        let write = |name: &str, text: &str| {
            let path = dir.join(name);
            fs::write(&path, text).unwrap();
            path
        };
        Self {
            authority: write("authority.pem", &authority_pem),
            certificate: write("server.pem", &server_pem),
            key: write("server.key", &server_key.serialize_pem()),
            signer: write("signer.pem", &signer_certificate.pem()),
            signer_der: signer_certificate.der().to_vec(),
            signer_key: signer_key.serialize_der(),
        }
    }
}
