//! Reads from clients: PROXY header, TLS, request head and ClientHello, within limits; and answers
//! them.

pub mod http;
pub mod intake;
#[cfg(feature = "inspect")]
pub mod leaf;
pub mod listener;
pub mod proxy_protocol;
pub mod tls;
pub mod transparent;
