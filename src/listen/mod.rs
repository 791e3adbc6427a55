//! How clients come in: reading a PROXY header, a head or a hello within bounds, and answering.

pub mod http;
pub mod intake;
pub mod listener;
pub mod proxy_protocol;
pub mod tls;
pub mod transparent;
