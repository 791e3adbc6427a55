//! The client that an explanation is for, as `--client` names it.

use std::net::IpAddr;

use crate::policy::{ClientIdentity, ExplainedClient, PolicySet};

/// Returns the client of `--client`, an address or the name of a `[[client]]`; `None` if it is neither.
pub(super) fn find(set: &PolicySet, written: &str) -> Option<ExplainedClient> {
    if let Ok(address) = written.parse::<IpAddr>() {
        return Some(ExplainedClient::At(ClientIdentity::at(address)));
    }
    let client = set.rules().clients.iter().find(|client| *client.name == *written)?;
    Some(ExplainedClient::Of(client.clone()))
}
