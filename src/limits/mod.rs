//! All run-time limits: sessions and their rate, DNS queries, connections without a request,
//! passwords, the bytes of tunnels, and the memory of those whose client does not read.
//!
//! A limit counts, and admits, rejects or delays. It judges no names and writes no records. The
//! memory that clients can occupy is bounded, per client and in total.

mod bounds;
mod by_client;
mod passwords;
mod pending;
mod query_rate;
mod quotas;
mod session_rate;
mod sessions;
mod setup;
mod socket_memory;
mod stalls;
mod throttle;
mod token_bucket;
mod upload_quota;

pub use bounds::Bounds;
pub use passwords::{ClientCredentials, NoRandomNumbers, Passwords};
pub use pending::{PendingConnections, PendingPermit, PendingSlot};
pub use query_rate::QueryRates;
pub use quotas::{Quotas, RateOwner};
pub use sessions::{SessionPermit, Sessions};
pub use setup::{SecondHellos, SetupSlot};
pub use socket_memory::SocketMemory;
pub use stalls::{StalledTunnel, Stalls};
pub use throttle::{Paced, Throttle};
pub use upload_quota::{Reserved, UploadQuota};
