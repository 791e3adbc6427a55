//! Kerberos: a realm with its key distribution center, and Squid as a service of it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::daemon::{Daemon, find};
use super::lab::{Lab, Way, address};

/// The service that users of Squid want a ticket for.
const SQUID_SERVICE: &str = "HTTP/squid.corp.example";

const REALM: &str = "CORP.EXAMPLE";
const KDC: &str = "127.0.0.1:88";

/// A realm. It has the service of Squid, and the user `pullgate`.
pub struct Realm {
    kdc: Option<Daemon>,
    dir: PathBuf,
}

impl Realm {
    /// Creates the realm, has `/etc/krb5.conf` name it in this test, and starts its KDC.
    pub fn start(lab: &Lab) -> Self {
        // Squid's helper gives up root before it reads its keys, and only this test sees /run.
        let dir = Path::new("/run/kerberos").to_owned();
        fs::create_dir_all(&dir).unwrap();
        let at = dir.display().to_string();
        let client = format!(
            "[libdefaults]\n default_realm = {REALM}\n dns_lookup_kdc = false\n\
             [realms]\n {REALM} = {{\n  kdc = {KDC}\n }}\n"
        );
        fs::write(dir.join("krb5.conf"), client).unwrap();
        let server = format!(
            "[kdcdefaults]\n kdc_listen = {KDC}\n kdc_tcp_listen = {KDC}\n\
             [realms]\n {REALM} = {{\n  database_name = {at}/principal\n\
             \x20 key_stash_file = {at}/stash\n  acl_file = {at}/acl\n }}\n"
        );
        fs::write(dir.join("kdc.conf"), server).unwrap();
        lab.sh(Way::Direct, &format!("mount --bind {at}/krb5.conf /etc/krb5.conf")).succeeded();
        let mut realm = Self { kdc: None, dir };
        realm.administer(lab, "kdb5_util", &format!("create -s -r {REALM} -P not-one"));
        for (principal, keys) in [(SQUID_SERVICE, "squid.keytab"), ("pullgate", "pullgate.keytab")]
        {
            realm.administer(lab, "kadmin.local", &format!("addprinc -randkey {principal}"));
            realm.administer(lab, "kadmin.local", &format!("ktadd -k {at}/{keys} {principal}"));
        }
        let readable = fs::Permissions::from_mode(0o644);
        fs::set_permissions(realm.dir.join("squid.keytab"), readable).unwrap();
        realm.open(lab);
        realm
    }

    /// Starts the KDC.
    pub fn open(&mut self, lab: &Lab) {
        let profile = self.profile();
        let program = find("krb5kdc").display().to_string();
        let line = ["env", &profile, &program, "-n"];
        self.kdc = Some(lab.daemon("krb5kdc", &line).accepts(address(KDC)));
    }

    /// Stops the KDC: what needs a ticket fails from now on.
    pub fn close(&mut self) {
        self.kdc = None;
    }

    /// The keys of the user `pullgate`.
    pub fn keys(&self) -> PathBuf {
        self.dir.join("pullgate.keytab")
    }

    /// Rules of Squid that demand a user of the realm by Negotiate, and allow CONNECT to any port.
    pub fn rules(&self) -> String {
        format!(
            "auth_param negotiate program /usr/lib/squid/negotiate_kerberos_auth -k {} -s {}\n\
             auth_param negotiate children 2\nacl known proxy_auth REQUIRED\n\
             http_access allow known\nhttp_access deny all",
            self.dir.join("squid.keytab").display(),
            SQUID_SERVICE
        )
    }

    fn profile(&self) -> String {
        format!("KRB5_KDC_PROFILE={}", self.dir.join("kdc.conf").display())
    }

    fn administer(&self, lab: &Lab, program: &str, line: &str) {
        let program = find(program).display().to_string();
        let line = format!("env {} {program} {line}", self.profile());
        lab.sh(Way::Direct, &line).succeeded();
    }
}
