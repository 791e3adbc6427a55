//! How the gate goes out: looking an allowed name up, and connecting to vetted addresses.
//!
//! A look-up takes an [`Allowed`](crate::policy::Allowed), connecting a
//! [`Permit`](crate::policy::Permit): no other name is asked for, no other address is dialled.

mod connect;
mod own;
mod resolve;
mod servers;
mod stale;

use std::io;

use rustix::io::Errno;

pub use connect::connect;
pub use own::interfaces;
pub use resolve::{Answer, Origin, Resolver};
pub use servers::{MOST_ADDRESSES, system_servers};

use crate::policy::{Cause, Failure, Side};

fn upstream(cause: Cause) -> Failure {
    Failure { side: Side::Upstream, cause }
}

/// Whether it is the gate that lacks descriptors or memory, whoever is at the other end.
fn is_shortage(error: &io::Error) -> bool {
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| shortages.contains(&errno))
}

#[cfg(test)]
mod tests;
