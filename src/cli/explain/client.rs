//! The client that an explanation is for, as `--client` names it.

use std::net::IpAddr;
use std::sync::Arc;

use crate::policy::{Client, ClientIdentity, PolicySet};

/// The client of an explanation.
pub(super) enum ExplainedClient {
    /// A client address.
    At(ClientIdentity),
    /// A `[[client]]` group.
    Of(Arc<Client>),
}

/// Returns the client of `--client`, an address or the name of a `[[client]]`; `None` if it is neither.
pub(super) fn find(set: &PolicySet, written: &str) -> Option<ExplainedClient> {
    if let Ok(address) = written.parse::<IpAddr>() {
        return Some(ExplainedClient::At(ClientIdentity::at(address)));
    }
    let client = set.rules().clients.iter().find(|client| *client.name == *written)?;
    Some(ExplainedClient::Of(client.clone()))
}
