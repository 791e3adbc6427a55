//! What the commands need beside the gate: the demo, the doctor and the firewall rules.

pub mod demo;
pub mod doctor;
pub mod health;
pub mod nftables;
