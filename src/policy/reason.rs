//! The closed sets of codes for answers, metric labels and audit lines.
//!
//! A [`Denial`] is a decision of the gate, a [`Failure`] is an error of a client, upstream or the
//! gate, and an [`Ending`] is a success. A test compares the manual's table of reasons with these
//! sets.

use std::fmt;

/// Declares a closed set of codes: variant, code and one line of meaning for each.
macro_rules! codes {
    ($(#[$meta:meta])* $set:ident { $($variant:ident $code:literal $meaning:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $set { $(#[doc = $meaning] $variant,)+ }

        impl $set {
            /// All members, in the order of the manual.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Returns the code in answers, metrics and audit lines.
            #[must_use]
            pub fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }

            /// Returns the meaning, in one line.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)+ }
            }

            /// Returns the member with this code.
            #[must_use]
            pub fn from_code(code: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|member| member.code() == code)
            }
        }

        impl fmt::Display for $set {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(self.code())
            }
        }
    };
}

codes! {
    /// Why the gate denied a session.
    Reason {
        HeadMalformed "head-malformed" "The request head is not valid HTTP/1 (RFC 9112).",
        HeadTooLarge "head-too-large" "The request head is too large.",
        HeadTimeout "head-timeout" "The request head was not complete within its timeout.",
        ProxyHeaderInvalid "proxy-header-invalid" "The PROXY protocol header is missing, malformed or from an address that must not send one.",
        ProxyTls "proxy-tls" "The TLS handshake between the client and the gate failed.",
        CertificateRejected "certificate-rejected" "The client certificate is missing or was rejected.",
        ProxyLoop "proxy-loop" "The request has passed this gate before, or too many gates.",
        BadTarget "bad-target" "The request target is not host:port.",
        MethodNotAllowed "method-not-allowed" "The method is not CONNECT.",
        IpLiteral "ip-literal" "The target is an IP address; the policy matches names only.",
        PortNotAllowed "port-not-allowed" "The host is allowed, but not on this port.",
        HostNotAllowed "host-not-allowed" "The host is not in the policy.",
        StorageAccount "storage-account" "The host is a storage account, which any tenant can own.",
        OtherRegistry "other-registry" "The host belongs to a registry that is not in the policy.",
        ClientNotAllowed "client-not-allowed" "The registry does not allow this client.",
        CredentialsRequired "credentials-required" "Credentials are required, and they are missing or wrong.",
        RequestMalformed "request-malformed" "The registry request breaks the rules of HTTP or of the OCI distribution spec.",
        OperationNotAllowed "operation-not-allowed" "The registry's rules do not allow this operation.",
        RegistryUnknown "registry-unknown" "The request does not name a registry of the mirror.",
        RepositoryNotAllowed "repository-not-allowed" "The registry's rules do not allow the repository.",
        TagNotAllowed "tag-not-allowed" "The registry's rules do not allow the tag.",
        ListingNotAllowed "listing-not-allowed" "The registry's rules do not allow listing tags or repositories.",
        HostMismatch "host-mismatch" "The request's Host is not the server that the client connected to.",
        RedirectNotAllowed "redirect-not-allowed" "The registry redirects to a host that is not one of its own.",
        AddressNotAllowed "address-not-allowed" "The name resolves only to addresses that may not be dialled.",
        NotTls "not-tls" "The client's first bytes are not TLS.",
        HelloMalformed "hello-malformed" "The ClientHello breaks the rules of TLS.",
        HelloTooLarge "hello-too-large" "The ClientHello is larger than the limits allow.",
        HelloTimeout "hello-timeout" "The ClientHello was not complete within its timeout.",
        SniMissing "sni-missing" "The ClientHello has no server name.",
        SniMismatch "sni-mismatch" "The ClientHello names another server than the CONNECT.",
        SecondHelloMismatch "second-hello-mismatch" "The second ClientHello differs from the first in a field that was judged.",
        EncryptedClientHello "encrypted-client-hello" "The ClientHello is encrypted (ECH or ESNI).",
        EarlyData "early-data" "The ClientHello offers early data.",
        TlsTooOld "tls-too-old" "The client offers neither TLS 1.2 nor TLS 1.3.",
        ServerHelloMalformed "server-hello-malformed" "The server's reply to the ClientHello is not valid TLS 1.2 or 1.3.",
        ProtocolNotAllowed "protocol-not-allowed" "The client offers no HTTP/1.1 (ALPN) for a tunnel that is inspected.",
        Renegotiation "renegotiation" "The client started a renegotiation.",
        UploadBudget "upload-budget" "The client exceeded its upload budget or quota.",
        SessionLimit "session-limit" "A limit on open sessions is reached.",
        RateLimit "rate-limit" "A rate limit is exceeded.",
        Lifetime "lifetime" "The session reached its maximum lifetime.",
        AuditFull "audit-full" "The audit cannot be written, and sessions must not be unrecorded.",
        Draining "draining" "The gate is shutting down.",
        PolicyRevoked "policy-revoked" "A reload removed the permission of the session.",
    }
}

codes! {
    /// Why a session failed, without a decision of the gate.
    Cause {
        NameNotFound "name-not-found" "DNS has no address for the name.",
        LookupFailed "lookup-failed" "The DNS server answered with an error, or could not be reached.",
        LookupTimeout "lookup-timeout" "The DNS server did not answer in time.",
        ConnectRefused "connect-refused" "Every address refused the connection.",
        ConnectTimeout "connect-timeout" "No address accepted the connection in time.",
        ConnectUnreachable "connect-unreachable" "No address could be reached.",
        ParentUnreachable "parent-unreachable" "No address of the parent proxy could be reached, or none answered.",
        ParentRefused "parent-refused" "The parent proxy refused to connect, or could not.",
        ParentAuth "parent-auth" "The parent proxy asks for other credentials than the gate has.",
        ParentMalformed "parent-malformed" "The parent proxy's answer is not an HTTP/1 response to CONNECT.",
        LocalPorts "local-ports" "The gate's host has no local port left for connections to the address.",
        ClientAborted "client-aborted" "The client reset the connection.",
        AuthorityNotTrusted "authority-not-trusted" "The client rejected the gate's certificate for a tunnel that is inspected.",
        UpstreamAborted "upstream-aborted" "The upstream reset the connection.",
        IdleTimeout "idle-timeout" "Neither side sent a byte within the idle timeout.",
        StallTimeout "stall-timeout" "A side did not read what was queued for it within the stall timeout.",
        TcpMemory "tcp-memory" "The gate's host ran short of memory for sockets, and a side did not read what was queued for it.",
        UpstreamTls "upstream-tls" "The TLS handshake with the registry failed, or its certificate was rejected.",
        UpstreamCertificate "upstream-certificate" "The server has no valid certificate for the name (verify-upstream).",
        UpstreamAuth "upstream-auth" "The registry or its token server did not accept the gate.",
        UpstreamMalformed "upstream-malformed" "The registry's response breaks the rules of HTTP or of the OCI distribution spec.",
        DigestMismatch "digest-mismatch" "The registry's bytes do not have the digest that was asked for.",
        Internal "internal" "The gate itself failed.",
    }
}

impl Reason {
    /// Returns whether report mode allows it, recorded as `would-deny`.
    #[must_use]
    pub fn is_reportable(self) -> bool {
        matches!(
            self,
            Self::HostNotAllowed
                | Self::StorageAccount
                | Self::OtherRegistry
                | Self::ClientNotAllowed
                | Self::UploadBudget
                | Self::RepositoryNotAllowed
                | Self::TagNotAllowed
                | Self::ListingNotAllowed
                | Self::RedirectNotAllowed
        )
    }
}

/// The side that caused a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The client, or the load balancer before it.
    Client,
    /// The registry, or a DNS server.
    Upstream,
    /// The gate.
    Gate,
}

/// A denial by the gate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Denial {
    /// The reason.
    pub reason: Reason,
    /// A hint for the user of the client, in a few plain words. Never secret.
    pub remedy: Option<String>,
}

impl Denial {
    /// Creates a denial without a hint, because its reason is sufficient.
    #[must_use]
    pub fn new(reason: Reason) -> Self {
        Self { reason, remedy: None }
    }

    /// Creates a denial with a remedy.
    #[must_use]
    pub fn with_remedy(reason: Reason, remedy: impl Into<String>) -> Self {
        Self { reason, remedy: Some(remedy.into()) }
    }

    /// Returns the denial of a name for a request that is a ClientHello only: a name that no
    /// request may have makes the ClientHello malformed.
    #[must_use]
    pub fn of_hello(self) -> Self {
        match self.reason {
            Reason::BadTarget => Reason::HelloMalformed.into(),
            _ => self,
        }
    }
}

impl From<Reason> for Denial {
    fn from(reason: Reason) -> Self {
        Self::new(reason)
    }
}

/// A failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{cause}")]
pub struct Failure {
    /// The side that caused it.
    pub side: Side,
    /// The cause.
    pub cause: Cause,
}

/// A failure, and what was seen of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{failure}: {detail}")]
pub struct DetailedFailure {
    /// What failed.
    pub failure: Failure,
    /// What was seen, in a few plain words; never secret.
    pub detail: String,
}

/// A parent proxy did not open a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{cause}: {detail}")]
pub struct ParentFailure {
    /// What went wrong.
    pub cause: Cause,
    /// What the parent answered, or why it could not be asked: printable, and never secret.
    pub detail: String,
}

/// How a session that went well came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Both sides closed in order.
    Closed,
}

/// Why a session ended early.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// The gate denied it.
    #[error("denied: {0}")]
    Denied(#[from] Denial),
    /// It failed.
    #[error("failed: {0}")]
    Failed(#[from] Failure),
    /// It failed, and its client learns what was seen.
    #[error("failed: {0}")]
    Detailed(Box<DetailedFailure>),
}

impl From<DetailedFailure> for Stop {
    fn from(detailed: DetailedFailure) -> Self {
        Self::Detailed(Box::new(detailed))
    }
}

impl From<ParentFailure> for Stop {
    fn from(ParentFailure { cause, detail }: ParentFailure) -> Self {
        DetailedFailure { failure: Failure { side: Side::Upstream, cause }, detail }.into()
    }
}

impl From<Reason> for Stop {
    fn from(reason: Reason) -> Self {
        Self::Denied(reason.into())
    }
}

impl Stop {
    /// Returns the code of either set.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Denied(denial) => denial.reason.code(),
            Self::Failed(failure) => failure.cause.code(),
            Self::Detailed(detailed) => detailed.failure.cause.code(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn codes_are_unique_and_read_back() {
        let mut seen = HashSet::new();
        for reason in Reason::ALL {
            assert!(seen.insert(reason.code()), "{reason}");
            assert_eq!(Reason::from_code(reason.code()), Some(*reason));
        }
        for cause in Cause::ALL {
            assert!(seen.insert(cause.code()), "{cause}");
            assert_eq!(Cause::from_code(cause.code()), Some(*cause));
        }
    }
}
