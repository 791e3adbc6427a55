//! A certificate authority made with OpenSSL, for valid and invalid client certificates.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::daemon::find;

/// OpenSSL configuration of an authority.
const CONFIG: &str = "
[ca]
default_ca = this
[this]
database = $ENV::DIR/index.txt
serial = $ENV::DIR/serial
crlnumber = $ENV::DIR/crlnumber
new_certs_dir = $ENV::DIR
certificate = $ENV::DIR/ca.pem
private_key = $ENV::DIR/ca.key
default_md = sha256
default_days = 30
default_crl_days = 30
policy = any
unique_subject = no
copy_extensions = none
[any]
commonName = supplied
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical,CA:true
keyUsage = critical,keyCertSign,cRLSign
";

/// An authority, in its own folder.
pub struct Authority {
    dir: PathBuf,
}

/// A certificate and its key, as PEM.
pub struct Certificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    /// Creates a self-signed authority.
    pub fn new(dir: &Path, subject: &str) -> Self {
        let authority = Self::prepared(dir);
        authority.key("ca");
        authority.openssl(&[
            "req",
            "-x509",
            "-new",
            "-key",
            "ca.key",
            "-subj",
            &format!("/CN={subject}"),
            "-extensions",
            "authority",
            "-days",
            "30",
            "-out",
            "ca.pem",
        ]);
        authority
    }

    /// Creates an intermediate authority signed by this one.
    pub fn below(&self, dir: &Path, subject: &str) -> Self {
        let lower = Self::prepared(dir);
        let made = self.sign(
            &format!("lower-{subject}"),
            subject,
            "basicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign,cRLSign",
            &[],
        );
        fs::copy(made.key, lower.dir.join("ca.key")).unwrap();
        fs::copy(made.certificate, lower.dir.join("ca.pem")).unwrap();
        lower
    }

    /// Creates an authority that misuses a leaf certificate as a CA certificate.
    pub fn of_leaf(dir: &Path, leaf: &Certificate) -> Self {
        let usurper = Self::prepared(dir);
        fs::copy(&leaf.key, usurper.dir.join("ca.key")).unwrap();
        fs::copy(&leaf.certificate, usurper.dir.join("ca.pem")).unwrap();
        usurper
    }

    fn prepared(dir: &Path) -> Self {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("openssl.cnf"), CONFIG).unwrap();
        fs::write(dir.join("index.txt"), "").unwrap();
        fs::write(dir.join("serial"), "1000\n").unwrap();
        fs::write(dir.join("crlnumber"), "01\n").unwrap();
        Self { dir: dir.to_owned() }
    }

    /// Returns its own certificate.
    pub fn pem(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// Returns its own certificate, for use by a client.
    pub fn as_certificate(&self) -> Certificate {
        Certificate { certificate: self.pem(), key: self.dir.join("ca.key") }
    }

    /// Issues a certificate for a client or a server, with these extensions.
    pub fn issue(&self, name: &str, extensions: &str) -> Certificate {
        self.sign(name, name, extensions, &[])
    }

    /// Issues a certificate that is valid between two times (`YYYYMMDDHHMMSSZ`).
    pub fn issue_between(&self, name: &str, extensions: &str, times: (&str, &str)) -> Certificate {
        self.sign(name, name, extensions, &["-startdate", times.0, "-enddate", times.1])
    }

    fn sign(&self, name: &str, subject: &str, extensions: &str, more: &[&str]) -> Certificate {
        self.key(name);
        let (key, request, pem) =
            (format!("{name}.key"), format!("{name}.csr"), format!("{name}.pem"));
        let extension_file = self.dir.join(format!("{name}.ext"));
        fs::write(&extension_file, format!("{extensions}\n")).unwrap();
        let subject = format!("/CN={subject}");
        self.openssl(&["req", "-new", "-key", &key, "-subj", &subject, "-out", &request]);
        let extension_file = extension_file.to_str().unwrap();
        let sign =
            ["ca", "-batch", "-notext", "-in", &request, "-out", &pem, "-extfile", extension_file];
        self.openssl(&[&sign[..], more].concat());
        Certificate { certificate: self.dir.join(pem), key: self.dir.join(key) }
    }

    /// Revokes a certificate; the next revocation list contains it.
    pub fn revoke(&self, certificate: &Certificate) {
        self.openssl(&["ca", "-revoke", certificate.certificate.to_str().unwrap()]);
    }

    /// Returns its revocation list.
    pub fn revocations(&self) -> String {
        self.openssl(&["ca", "-gencrl", "-out", "crl.pem"]);
        fs::read_to_string(self.dir.join("crl.pem")).unwrap()
    }

    fn key(&self, name: &str) {
        let out = format!("{name}.key");
        self.openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &out]);
    }

    fn openssl(&self, words: &[&str]) {
        let mut command = Command::new(find("openssl"));
        command.args(words).current_dir(&self.dir).env("DIR", &self.dir);
        command.env("OPENSSL_CONF", self.dir.join("openssl.cnf"));
        let ran = command.output().unwrap();
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "openssl {}: {said}", words.join(" "));
    }
}

impl Certificate {
    /// Appends another certificate, so that the client sends a chain.
    pub fn with(self, between: &Path) -> Self {
        let mut chain = fs::read_to_string(&self.certificate).unwrap();
        chain.push_str(&fs::read_to_string(between).unwrap());
        fs::write(&self.certificate, chain).unwrap();
        self
    }
}
