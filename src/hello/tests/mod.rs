//! Cases as tables, laws, and rustls' own client and server driven through the guard.

#[path = "../../../tests/cases/mod.rs"]
mod cases;
mod flows;
mod hellos;
mod peers;
