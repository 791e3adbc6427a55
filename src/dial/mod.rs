//! How the gate goes out: looking an allowed name up, and connecting to vetted addresses.
//!
//! A look-up takes an [`Allowed`](crate::policy::Allowed), connecting a
//! [`Permit`](crate::policy::Permit): no other name is asked for, no other address is dialled.

mod cache;
mod connect;
mod exchange;
mod own;
mod reply;
mod resolve;
mod servers;
mod shortage;
mod stale;
mod system;
mod tls;

pub use connect::connect;
pub use own::interfaces;
pub use resolve::{Answer, Origin, Resolver};
pub use servers::MOST_ADDRESSES;
pub use system::system_servers;
pub use tls::{TlsClients, TlsFault};

#[cfg(test)]
mod tests;
