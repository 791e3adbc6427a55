//! How the gate goes out: looking an allowed name up, and connecting to vetted addresses.
//!
//! A look-up takes an [`Allowed`](crate::policy::Allowed), connecting a
//! [`Permit`](crate::policy::Permit): no other name is asked for, no other address is dialled.

mod connect;
mod own;
mod resolve;

pub use connect::connect;
pub use own::interfaces;
pub use resolve::{Answer, MOST_ADDRESSES, Origin, Resolver};
