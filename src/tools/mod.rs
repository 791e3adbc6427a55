//! What the commands need beside the gate: the demo, the doctor and the firewall rules.

#[cfg(feature = "tools")]
pub mod client_files;
#[cfg(feature = "demo")]
pub mod demo;
#[cfg(feature = "tools")]
pub mod doctor;
pub mod health;
#[cfg(feature = "tools")]
pub mod nftables;
