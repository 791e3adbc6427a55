//! The gate between real clients and real registries; see `tests/harness` for the laboratory.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    missing_docs,
    reason = "a test fails by panicking; clippy's exception for tests covers #[test] functions only"
)]

#[path = "../cases/mod.rs"]
mod cases;
#[path = "../harness/mod.rs"]
mod harness;

mod again;
mod answerer;
mod balancer;
mod behind_parent;
mod budget;
mod check;
mod clients;
mod confine;
mod dns;
mod doctor;
mod drain;
mod exhaustion;
mod faults;
mod gateway;
mod handover;
mod inspect;
mod inspect_authority;
mod inspect_clients;
mod inspect_crowd;
mod inspect_hello;
mod inspect_hostile;
mod inspect_limits;
mod kerberos;
mod lan;
mod limits;
mod mirror;
mod mirror_clients;
mod mirror_crowd;
mod mirror_hostile;
mod mutual;
mod node_local;
mod observability;
mod page;
mod parent;
mod parent_dies;
mod parent_manual;
mod parent_tls;
mod presets;
mod probe;
mod pull;
mod refuse;
mod reload;
mod report;
mod revoke;
mod router;
mod second_hello;
mod single_label;
mod tls;
mod users;
mod verify;
mod wall;
mod wall_containers;
mod wall_gateway;
