//! Cases as tables, laws, and rustls' own client and server driven through the guard.

mod flows;
mod hellos;
mod peers;
