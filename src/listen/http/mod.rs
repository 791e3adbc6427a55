//! HTTP/1.1 towards clients: the request head, CONNECT and the answers to it.

pub mod answer;
pub mod authorization;
pub mod connect;
pub mod head;
