//! The laboratory of the end-to-end tests: real registries, a data endpoint, a storage account and
//! real clients, in network and mount namespaces of each test.
//!
//! A test begins with [`Lab::new`], which moves the test's thread (and so every process and thread
//! that it starts) into new namespaces. Names, ports and addresses are the same in every test and
//! do not conflict with others. When the thread ends, the kernel deletes the namespaces. Nothing is
//! mocked: the servers are docker-registry behind nginx, the clients skopeo, podman, ctr, docker and curl.
//! [`Lab::with_gateway`] adds a gateway between a client and the servers.

mod acceptor;
mod attacker;
mod browser;
mod certificates;
mod containerd;
mod daemon;
mod dnsmasq;
mod docker;
mod gate;
mod haproxy;
mod https;
mod image;
mod impostor;
mod kerberos;
mod lab;
mod liar;
mod manager;
mod parents;
mod pki;
mod pulls;
mod site;
mod tap;
mod token;
mod wait;

pub use attacker::{ATTACKER, Attacker};
pub use browser::{Browser, Scheme};
pub use certificates::{Authority, Certificate};
pub use containerd::containerd;
pub use daemon::{Daemon, bound_to_this_thread, find};
pub use dnsmasq::{Family, dnsmasq, dnsmasq_at, resolver, resolver_of, stub};
pub use docker::Docker;
pub use gate::{ADMIN, Gate, PROXY, Policy, az_json, behind_a_parent, write_config};
pub use haproxy::haproxy;
pub use https::{HttpsTunnel, client_config, client_config_by};
pub use image::{BLOBS, Image, Random, sha256};
pub use impostor::{IMPOSTOR, impostor};
pub use kerberos::Realm;
pub use lab::{Blobs, EDGE_PARENT, Lab, Ran, Way, address};
pub use liar::{LIES, Liar};
pub use manager::{Handing, Manager};
pub use parents::{ScriptedParent, connect_through, second_gate, squid, tinyproxy, with_basic};
pub use pulls::{ctr_pull, every_client_pulls, podman_pull, relayed_or_aborted, skopeo_pull};
pub use site::{GATE_USER, INSIDE, METADATA, NO_CAPABILITIES, Place, RESOLVER};
pub use tap::Tap;
pub use wait::{wait_until, wait_until_within};

/// Timeout for anything that should happen immediately. It is generous because the machine is
/// shared; only failing tests wait this long.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);
