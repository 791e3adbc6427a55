//! DNS queries of a client: own messages to a server under test, and the system resolver for a host
//! that must work.

use std::net::SocketAddr;

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{self, RecordType};
use tokio::time::{Instant, timeout_at};

use crate::policy::{Name, Target};

/// Maximum number of addresses of a host that are tested.
const ADDRESSES: usize = 8;

/// Returns an encoded query for the IPv4 addresses of a name.
pub(super) fn question(name: &Name) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    // Every name is a valid DNS name, and every query can be encoded.
    let mut absolute = rr::Name::from_ascii(name.as_str()).unwrap_or_default();
    absolute.set_fqdn(true);
    message.add_query(Query::query(absolute, RecordType::A));
    message.set_edns(Edns::new());
    message.to_vec().unwrap_or_default()
}

/// Describes an answer; `None` for a refusal: REFUSED, or an answer with a blocking reason (RFC
/// 8914), as the gate's DNS server sends it. Any other answer may come from another server, which
/// has then seen the name.
pub(super) fn answered(bytes: &[u8]) -> Option<String> {
    match Message::from_vec(bytes) {
        Ok(answer) if answer.metadata.response_code == ResponseCode::Refused => None,
        Ok(answer) if answer.answers.is_empty() && is_blocked(&answer) => None,
        Ok(answer) => Some(format!("it answers, with {}", answer.metadata.response_code)),
        Err(_) => Some("it answers".to_owned()),
    }
}

/// Returns whether an answer has an Extended DNS Error from 15 (Blocked) to 18 (Prohibited).
fn is_blocked(answer: &Message) -> bool {
    const EXTENDED_DNS_ERROR: u16 = 15;
    let edns = answer.edns.as_ref();
    match edns.and_then(|edns| edns.option(EdnsCode::from(EXTENDED_DNS_ERROR))) {
        Some(EdnsOption::Unknown(_, bytes)) => matches!(bytes.as_slice(), [0, 15..=18, ..]),
        _ => false,
    }
}

/// Returns whether an answer confirms that the name exists, even without an address of this family.
pub(super) fn knows(bytes: &[u8]) -> bool {
    let answer = Message::from_vec(bytes);
    answer.is_ok_and(|answer| answer.metadata.response_code == ResponseCode::NoError)
}

/// Returns the addresses of a host from the system resolver; none if it times out.
pub(super) async fn addresses(target: &Target, by: Instant) -> Vec<SocketAddr> {
    #[expect(clippy::disallowed_methods, reason = "a client asks the system, and is played here")]
    let looked_up = tokio::net::lookup_host((target.name.as_str().to_owned(), target.port));
    match timeout_at(by, looked_up).await {
        Ok(Ok(found)) => found.take(ADDRESSES).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_a_refusal_and_nothing_else_is() {
        let name = Name::parse("example.com").unwrap();
        let answer = |code: ResponseCode, error: Option<u8>| {
            let mut answer = Message::from_vec(&question(&name)).unwrap();
            answer.metadata.response_code = code;
            let mut edns = Edns::new();
            if let Some(error) = error {
                edns.options_mut().insert(EdnsOption::Unknown(15, vec![0, error]));
            }
            answer.set_edns(edns);
            answered(&answer.to_vec().unwrap()).is_none()
        };
        assert!(answer(ResponseCode::Refused, None));
        assert!(answer(ResponseCode::NXDomain, Some(15)));
        assert!(answer(ResponseCode::NoError, Some(18)));
        assert!(!answer(ResponseCode::NXDomain, None), "a server elsewhere may have said so");
        assert!(!answer(ResponseCode::NXDomain, Some(3)), "a stale answer");
        assert!(!answer(ResponseCode::NoError, None));
    }
}
