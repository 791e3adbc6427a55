//! Outgoing connections: resolves allowed names and connects to vetted addresses.
//!
//! Resolving requires an [`Allowed`](crate::policy::Allowed), connecting a
//! [`Permit`](crate::policy::Permit), so no other name is queried and no other address is dialled.

mod cache;
mod connect;
mod dialler;
mod exchange;
mod own;
mod parent;
mod reply;
mod resolve;
mod servers;
mod shortage;
mod stale;
mod system;
mod tls;
mod upstream;
mod verify;

pub use connect::connect_to;
pub use dialler::Dialler;
pub use own::interfaces;
pub use parent::Caller;
pub use resolve::{AnswerSource, Resolution, Resolver};
pub use servers::MOST_ADDRESSES;
pub use system::system_servers;
pub use tls::{Examined, SeenCertificate, TlsClients, TlsFault};
pub use upstream::{Connection, Upstream};
pub use verify::{DialledServer, Verifier};

#[cfg(test)]
mod tests;
