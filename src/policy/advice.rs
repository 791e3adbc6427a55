//! What the operator can do about a denial or a failure, in one line each. The manual's table of
//! reasons says more.

use super::reason::{Cause, Reason};

impl Reason {
    /// Returns what the operator can do about denials for this reason.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::HeadMalformed | Self::HeadTooLarge | Self::BadTarget | Self::MethodNotAllowed => {
                "correct the client's proxy settings: the gate expects CONNECT host:443"
            }
            Self::HeadTimeout => {
                "none for port scanners and health checks; otherwise check the network between \
                 client and gate"
            }
            Self::ProxyHeaderInvalid => {
                "make the load balancer send the PROXY header, and add its address to \
                 `proxy-protocol-from`"
            }
            Self::ProxyTls => "use https:// in the client's proxy URL",
            Self::CertificateRejected => {
                "give the client a certificate that the listener's `tls` accepts, or renew the \
                 revocation list"
            }
            Self::ProxyLoop => "correct the [[parent]] that leads back to this gate",
            Self::IpLiteral => {
                "configure the client to use a host name: the policy matches names only"
            }
            Self::PortNotAllowed => {
                "if the port is intended, write host:port in the registry's file"
            }
            Self::HostNotAllowed => {
                "if these clients need the host (an identity provider, for example), add it to \
                 `also` of their registry; otherwise leave it denied"
            }
            Self::StorageAccount => {
                "enable the dedicated data endpoints of the registry; no setting allows a storage \
                 account"
            }
            Self::OtherRegistry => {
                "if these clients may pull from the registry, add a file for it to registries.d; \
                 otherwise leave it denied"
            }
            Self::ClientNotAllowed => {
                "if the client may pull, add it to `clients` of the registry; otherwise leave it \
                 denied"
            }
            Self::CredentialsRequired => "put user and password into the client's proxy URL",
            Self::AddressNotAllowed => {
                "pullgate explain HOST lists the addresses; if they are intended, allow them with \
                 `private-addresses` or `[addresses] allow`"
            }
            Self::UploadBudget => {
                "pulls send little data: raise the upload budget if the client may push; otherwise \
                 ask its owner what it sent"
            }
            Self::SessionLimit | Self::RateLimit => {
                "if the client may use more, raise its limit in [limits] or [[client]]"
            }
            other => other.advice_on_sessions(),
        }
    }

    /// Continues [`Self::advice`]: reasons that end sessions, and those of TLS.
    fn advice_on_sessions(self) -> &'static str {
        match self {
            Self::Lifetime => "raise `session-lifetime-ms` if pulls really take that long",
            Self::AuditFull => "free space on the disk of [audit] path",
            Self::Draining => "retry when the gate is back",
            Self::PolicyRevoked => {
                "if this was a mistake, restore the registry's file, the client's group or its \
                 certificate"
            }
            Self::ServerHelloMalformed => "check what answers at the `upstream` of the audit line",
            Self::EncryptedClientHello => "disable Encrypted ClientHello in the client",
            Self::EarlyData => "disable TLS early data in the client",
            Self::TlsTooOld => "update the client",
            other => other.advice_on_requests(),
        }
    }

    /// Continues [`Self::advice`]: registry requests, and what no registry client sends.
    fn advice_on_requests(self) -> &'static str {
        match self {
            Self::OperationNotAllowed => {
                "push through a tunnel instead of the mirror; in inspected tunnels, add the \
                 repository to `push`"
            }
            Self::ProtocolNotAllowed => "let the client offer http/1.1 (ALPN)",
            Self::HostMismatch => "find out which program of the client asks for another registry",
            Self::RegistryUnknown => {
                "add [mirror] to the registry's file, or the name to its `names`"
            }
            Self::RepositoryNotAllowed => {
                "if it may be pulled, add it to `repositories`, in [inspect] to `pull` or `push`"
            }
            Self::TagNotAllowed => "pull another tag or a digest, or add the tag to `tags`",
            Self::ListingNotAllowed => "set `listing = true` if clients may list",
            Self::RedirectNotAllowed => {
                "enable dedicated data endpoints, or name the host in `data-endpoints` or \
                 `blob-hosts`"
            }
            _ => "find out which program of the client sent it: no registry client does",
        }
    }
}

impl Cause {
    /// Returns whether sessions end like this in normal operation: clients leave, and keep-alive
    /// connections become idle.
    #[must_use]
    pub fn is_routine(self) -> bool {
        matches!(self, Self::ClientAborted | Self::IdleTimeout)
    }

    /// Returns what the operator can do about failures by this cause.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::NameNotFound => {
                "check the name in the policy, and that the registry exists; with Private Link, \
                 check the private DNS zone"
            }
            Self::LookupFailed | Self::LookupTimeout => {
                "check `[dns] servers`, or /etc/resolv.conf, from the gate's host"
            }
            Self::ConnectRefused => {
                "check the registry, and the firewall between gate and registry"
            }
            Self::ConnectTimeout => {
                "a firewall drops the packets: allow the gate to reach port 443 of the hosts in \
                 the policy"
            }
            Self::ConnectUnreachable => "check the routes of the gate's host, including IPv6",
            Self::ParentUnreachable => {
                "check the parent proxy, its `addresses`, and the firewall between gate and parent"
            }
            Self::ParentRefused => {
                "allow CONNECT to the hosts in the policy on the parent proxy; \
                 `facts.parent-answer` of the audit line has its answer"
            }
            Self::ParentAuth => {
                "correct `credentials-file` of the parent, or run the program of \
                 `credentials-command` as the gate's user"
            }
            Self::ParentMalformed => {
                "check the port in `addresses` of the parent; a parent that speaks TLS needs `tls`"
            }
            Self::LocalPorts => {
                "widen net.ipv4.ip_local_port_range on the gate's host, or lower `open-sessions`"
            }
            Self::ClientAborted | Self::IdleTimeout => "none, unless there are many",
            Self::StallTimeout => "none, unless there are many",
            Self::TcpMemory => {
                "/sessions shows `stalled-bytes` and the clients; lower \
                 `open-sessions-per-client`, or raise net.ipv4.tcp_mem or the container's memory"
            }
            Self::AuthorityNotTrusted => {
                "give the client the authority of [inspect] for this registry: pullgate kit prints how"
            }
            Self::UpstreamAborted => "none for a few; otherwise check the registry",
            Self::UpstreamTls => {
                "set `ca` for a registry with a private authority; otherwise a firewall intercepts \
                 TLS"
            }
            Self::UpstreamCertificate => {
                "exempt the registry's hosts from TLS interception, set `ca`, or check the address \
                 that DNS gave"
            }
            Self::UpstreamAuth => {
                "check `credentials-file` of the registry, and that it can pull the repository"
            }
            Self::UpstreamMalformed => "check what answers at the `upstream` of the audit line",
            Self::DigestMismatch => "find out where the content was changed before it is pulled",
            Self::Internal => "read the log of the gate, and report the fault with it",
        }
    }
}
