//! The laboratory of the end-to-end tests: real registries, a data endpoint, a storage account and
//! real clients, in a network and a mount namespace of the test's own.
//!
//! A test begins with [`Lab::new`], which moves the test's thread (and so every process and thread
//! that it starts) into fresh namespaces. Names, ports and addresses are the same in every test and
//! meet nobody else's; when the thread ends, the kernel takes the namespaces away. It is not a mock:
//! what answers is docker-registry behind nginx, and what asks is skopeo, podman, ctr and curl.
//! [`Lab::with_gateway`] puts a gateway between a client and all that.

mod attacker;
mod browser;
mod certificates;
mod containerd;
mod daemon;
mod dnsmasq;
mod gate;
mod haproxy;
mod image;
mod lab;
mod manager;
mod pki;
mod site;
mod tap;
mod token;
mod wait;

pub use attacker::{ATTACKER, Attacker};
pub use browser::Browser;
pub use certificates::{Authority, Certificate};
pub use containerd::containerd;
pub use daemon::{Daemon, bound_to_this_thread, find};
pub use dnsmasq::{Family, dnsmasq, resolver, resolver_of, stub};
pub use gate::{Gate, Policy, az_json, write_config};
pub use haproxy::haproxy;
pub use image::{Image, Random, sha256};
pub use lab::{Blobs, Lab, Ran, Way};
pub use manager::{Handing, Manager};
pub use site::{INSIDE, METADATA, Place, RESOLVER};
pub use tap::Tap;
pub use wait::wait_until;

/// How long anything may take that ought to happen at once. Generous, since the machine is shared;
/// nobody waits it out unless a test fails.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);
