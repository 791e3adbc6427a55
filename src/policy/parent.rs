//! Parent proxies: how a registry's tunnels leave, where the only way out is another proxy.
//!
//! A [`Route`] is part of what a judgement allows. A parent's own addresses come from the
//! configuration alone and may be private; [`ParentPermit`] is the right to dial them, and only
//! [`PolicySet::judge_parent`](super::PolicySet::judge_parent) makes it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::addresses::{Class, class_of, reached};
use super::host::parse_host;
use super::location::{Located, Location};
use super::name::Name;
use super::target::{Target, parse_port};

/// How tunnels leave the gate.
#[derive(Debug, Clone, Default)]
pub enum Route {
    /// To the registry's own addresses.
    #[default]
    Direct,
    /// Through a parent proxy, and in no other way.
    Parent(Arc<Parent>),
}

impl Route {
    /// The parent, if there is one.
    #[must_use]
    pub fn parent(&self) -> Option<&Arc<Parent>> {
        match self {
            Self::Direct => None,
            Self::Parent(parent) => Some(parent),
        }
    }

    /// Whether the parent chooses the registry's address.
    #[must_use]
    pub fn is_by_name(&self) -> bool {
        self.parent().is_some_and(|parent| parent.connect == ConnectBy::Name)
    }

    /// Whether tunnels that were opened by `old` may stay open by this one.
    #[must_use]
    pub fn keeps(&self, old: &Self) -> bool {
        match (self.parent(), old.parent()) {
            (None, None) => true,
            (Some(new), Some(old)) => new.name == old.name && new.connect == old.connect,
            _ => false,
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => out.write_str("direct"),
            Self::Parent(parent) => {
                write!(out, "parent {} ({})", parent.name, parent.connect.describe())
            }
        }
    }
}

/// What a parent is asked to connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectBy {
    /// The registry's name: the parent resolves it.
    Name,
    /// An address that the gate has resolved and judged.
    Address,
}

impl ConnectBy {
    /// The word of the configuration.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Address => "address",
        }
    }

    /// What it means, for `explain`.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Name => "by name: the parent chooses the address",
            Self::Address => "by address: the gate chooses the address",
        }
    }
}

/// A parent proxy, as its `[[parent]]` describes it.
#[derive(Debug)]
pub struct Parent {
    /// Its name, which is also its metric label.
    pub name: Arc<str>,
    /// Where it is configured.
    pub place: Location,
    /// Where it is reached, in the order in which the addresses are tried; never empty.
    pub addresses: Vec<ParentAddress>,
    /// What it is asked to connect to.
    pub connect: ConnectBy,
    /// The credentials that the gate sends to it; `None` sends none.
    pub credentials: Option<ParentCredentials>,
    /// TLS to it, for an `https://` parent.
    pub tls: Option<ParentTls>,
    /// Whether each connection begins with a PROXY header that names the client.
    pub proxy_protocol: bool,
}

/// How the gate authenticates to a parent.
pub enum ParentCredentials {
    /// The value of `Proxy-Authorization`.
    Value(String),
    /// A program, and its arguments, that prints the value.
    Command(Vec<String>),
}

impl fmt::Debug for ParentCredentials {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(_) => out.write_str("Value(***)"),
            Self::Command(command) => write!(out, "Command({:?})", command.first()),
        }
    }
}

/// TLS to a parent.
#[derive(Debug, Clone)]
pub struct ParentTls {
    /// Authorities, and the gate's certificate if it has one.
    pub client: Arc<ClientConfig>,
    /// The name that its certificate must have. `None`: the host of the address that is dialled.
    pub server_name: Option<ServerName<'static>>,
}

/// One address of a parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentAddress {
    host: ParentHost,
    port: u16,
    text: Arc<str>,
}

/// The host of a parent's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParentHost {
    /// A name, which the gate looks up.
    Name(Name),
    /// An IP address.
    Ip(IpAddr),
}

impl ParentAddress {
    /// Parses `proxy.corp.example:8080`, `10.0.0.8:8080` or `[fd00::8]:8080`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (host, port) = text.rsplit_once(':').ok_or("it has no port")?;
        let port = parse_port(port).ok_or("its port is not a number from 1 to 65535")?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let ip = match bare {
            Some(six) => Some(six.parse().map(IpAddr::V6).map_err(|_| "its host is no address")?),
            None => host.parse().ok().map(IpAddr::V4),
        };
        let host = match ip {
            Some(ip) => ParentHost::Ip(ip.to_canonical()),
            None if host.contains(':') => return Err("its host has a port of its own".into()),
            None => {
                let target = parse_host(host).map_err(|fault| fault.to_string())?;
                ParentHost::Name(target.name)
            }
        };
        let text = match &host {
            ParentHost::Name(name) => format!("{name}:{port}"),
            ParentHost::Ip(ip) => SocketAddr::new(*ip, port).to_string(),
        };
        Ok(Self { host, port, text: text.into() })
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &ParentHost {
        &self.host
    }

    /// The port, never 0.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address as text, in canonical form.
    #[must_use]
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// What is looked up. `None` for an IP address.
    #[must_use]
    pub fn target(&self) -> Option<Target> {
        match &self.host {
            ParentHost::Name(name) => Some(Target { name: name.clone(), port: self.port }),
            ParentHost::Ip(_) => None,
        }
    }
}

impl fmt::Display for ParentAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

/// Why no parent is at an address, whatever the configuration says. A parent may be at a private or a
/// loopback address; metadata services and link-local addresses stay closed.
#[must_use]
pub fn never_a_parent(address: IpAddr) -> Option<&'static str> {
    reached(address.to_canonical()).find_map(|address| match class_of(address) {
        Class::Never(what) => Some(what),
        Class::Public | Class::Private(_) | Class::Openable(_) => None,
    })
}

/// The right to dial a parent: one of its configured addresses, judged. Only a judgement makes it.
#[derive(Debug, Clone)]
pub struct ParentPermit {
    pub(super) addresses: Vec<SocketAddr>,
}

impl ParentPermit {
    /// Where it may be dialled; never empty.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

/// What a registry's file says about its route.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ParentChoice {
    /// Nothing: as `[policy] parent` says.
    #[default]
    Inherited,
    /// `parent = "none"`.
    Direct,
    /// The name of a parent.
    Named(Located<String>),
}

/// The word for no parent, which none may have as its name.
pub const NO_PARENT: &str = "none";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_parents() {
        let cases = [
            ("proxy.corp.example:8080", Some("proxy.corp.example:8080")),
            ("Proxy.Corp.example:3128", Some("proxy.corp.example:3128")),
            ("10.0.0.8:8080", Some("10.0.0.8:8080")),
            ("[fd00::8]:8080", Some("[fd00::8]:8080")),
            ("[::ffff:10.0.0.8]:8080", Some("10.0.0.8:8080")),
            ("127.0.0.1:3128", Some("127.0.0.1:3128")),
            ("10.0.0.8", None),
            ("fd00::8", None),
            ("fd00::8:8080", None),
            ("[10.0.0.8]:8080", None),
            ("proxy:8080", None),
            ("proxy.corp.example", None),
            ("proxy.corp.example:0", None),
            ("http://proxy.corp.example:8080", None),
            ("user@proxy.corp.example:8080", None),
            ("a.example:80:80", None),
            ("0x7f.1:80", None),
            ("", None),
        ];
        for (text, expected) in cases {
            let found = ParentAddress::parse(text).map(|address| address.to_string());
            assert_eq!(found.as_deref().ok(), expected, "{text:?} {found:?}");
        }
    }

    #[test]
    fn a_parent_may_be_private_but_never_link_local_or_a_metadata_service() {
        let cases = [
            ("10.0.0.8", true),
            ("127.0.0.1", true),
            ("100.64.0.1", true),
            ("20.1.2.3", true),
            ("fd00::8", true),
            ("::1", true),
            ("169.254.169.254", false),
            ("::ffff:169.254.169.254", false),
            ("64:ff9b::169.254.169.254", false),
            ("fe80::1", false),
            ("168.63.129.16", false),
            ("0.0.0.0", false),
            ("224.0.0.1", false),
            ("fd00:ec2::254", false),
        ];
        for (text, allowed) in cases {
            assert_eq!(never_a_parent(text.parse().unwrap()).is_none(), allowed, "{text}");
        }
    }
}
