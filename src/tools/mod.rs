//! The parts that commands need besides the gate: demo, doctor, firewall rules, files for clients.

#[cfg(feature = "tools")]
pub mod client_files;
#[cfg(feature = "demo")]
pub mod demo;
#[cfg(feature = "tools")]
pub mod doctor;
pub mod health;
#[cfg(feature = "tools")]
pub mod nftables;
#[cfg(feature = "tools")]
pub mod probe;
