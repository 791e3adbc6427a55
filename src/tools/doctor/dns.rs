//! DNS as a client asks it: a question by hand for a server that is tried, and the system for a host
//! that should work.

use std::net::SocketAddr;

use hickory_resolver::proto::op::{Message, Query, ResponseCode};
use hickory_resolver::proto::rr::{self, RecordType};
use tokio::time::{Instant, timeout_at};

use crate::policy::{Name, Target};

/// So many addresses of a host are tried.
const ADDRESSES: usize = 8;

/// A question for a name's IPv4 addresses, as bytes.
pub(super) fn question(name: &Name) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    // Every name of ours is one of DNS, and every question can be written.
    let mut absolute = rr::Name::from_ascii(name.as_str()).unwrap_or_default();
    absolute.set_fqdn(true);
    message.add_query(Query::query(absolute, RecordType::A));
    message.to_vec().unwrap_or_default()
}

/// What an answer says: nothing where it is a refusal.
pub(super) fn answered(bytes: &[u8]) -> Option<String> {
    match Message::from_vec(bytes) {
        Ok(answer) if answer.metadata.response_code == ResponseCode::Refused => None,
        Ok(answer) => Some(format!("it answers, with {}", answer.metadata.response_code)),
        Err(_) => Some("it answers".to_owned()),
    }
}

/// Whether an answer knows the name, be it without an address of this family.
pub(super) fn knows(bytes: &[u8]) -> bool {
    let answer = Message::from_vec(bytes);
    answer.is_ok_and(|answer| answer.metadata.response_code == ResponseCode::NoError)
}

/// Where the system finds a host; nowhere where it finds it too late.
pub(super) async fn addresses(target: &Target, by: Instant) -> Vec<SocketAddr> {
    #[expect(clippy::disallowed_methods, reason = "a client asks the system, and is played here")]
    let looked_up = tokio::net::lookup_host((target.name.as_str().to_owned(), target.port));
    match timeout_at(by, looked_up).await {
        Ok(Ok(found)) => found.take(ADDRESSES).collect(),
        _ => Vec::new(),
    }
}
