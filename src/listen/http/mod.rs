//! HTTP/1.1 with clients: the request head, CONNECT and its answers.

pub mod answer;
pub mod authorization;
pub mod connect;
pub mod head;
