//! Validates DNS answers and extracts their addresses. Pure; hickory parses and writes the
//! messages.
//!
//! Servers send the records of an answer in any order, so the CNAME chain is followed by owner
//! name. Records whose owner is not on the chain are ignored.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

/// Maximum number of names in a CNAME chain. ACR uses four or five.
pub(super) const LONGEST_CHAIN: usize = 16;

/// Maximum number of addresses of each family. ACR returns only a few.
pub(super) const MOST_OF_FAMILY: usize = 32;

/// The advertised size of UDP answers, in bytes. Datagrams of this size are not fragmented (DNS
/// Flag Day 2020); fragments can be forged without knowing port and id.
pub(super) const LARGEST_DATAGRAM: u16 = 1232;

/// The header of a message, in bytes (RFC 1035 §4.1.1).
const HEADER: usize = 12;

/// The shortest record: an empty name, type, class, TTL, length.
const SHORTEST_RECORD: usize = 11;

/// Whether a question carries an OPT record (RFC 6891).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extension {
    Edns,
    Plain,
}

/// One query with a random id.
#[derive(Debug)]
pub(super) struct Question {
    id: u16,
    query: Query,
    pub(super) extension: Extension,
}

/// The classification of received bytes.
#[derive(Debug)]
pub(super) enum Received {
    /// They do not belong to the query: another id, another question, or a query.
    Foreign,
    /// They belong to the query but are malformed.
    Malformed,
    /// A complete answer: NOERROR or NXDOMAIN.
    Answer(Box<Message>),
    /// The answer was truncated.
    Truncated,
    /// An error that servers without EDNS send for an OPT record (RFC 6891 §7), or SERVFAIL.
    Objection,
    /// Any other error.
    Error,
}

/// The content of an answer for a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// The addresses, and the shortest TTL in the chain, in seconds.
    Addresses(Vec<IpAddr>, u32),
    /// The name is an alias whose target is not in the answer.
    Alias { end: Name, names: usize, ttl: u32 },
    /// No address of this family, and the negative TTL in seconds, if there is one.
    Nothing(Option<u32>),
}

impl Question {
    /// Creates a query for the addresses of one family of an absolute name.
    pub(super) fn new(name: &Name, family: RecordType, extension: Extension) -> Self {
        // The id comes from a cryptographically secure generator.
        let id = Message::query().metadata.id;
        Self { id, query: Query::query(name.clone(), family), extension }
    }

    /// Returns the message; `None` if the name cannot be encoded.
    pub(super) fn bytes(&self) -> Option<Vec<u8>> {
        let mut message = Message::query();
        message.metadata.id = self.id;
        message.metadata.recursion_desired = true;
        message.add_query(self.query.clone());
        if self.extension == Extension::Edns {
            let mut edns = Edns::new();
            edns.set_max_payload(LARGEST_DATAGRAM);
            message.set_edns(edns);
        }
        message.to_vec().ok()
    }

    /// Classifies received bytes.
    pub(super) fn judge(&self, bytes: &[u8]) -> Received {
        let Some(&[id_high, id_low, flags, code, counts @ ..]) = bytes.first_chunk::<HEADER>()
        else {
            return Received::Foreign;
        };
        let is_response_to_query = flags & 0b1111_1000 == 0x80;
        if u16::from_be_bytes([id_high, id_low]) != self.id || !is_response_to_query {
            return Received::Foreign;
        }
        let is_truncated = flags & 0b10 != 0;
        // A header can announce more records than the message holds, so nothing is allocated from
        // its counts.
        let [questions, records @ ..] = [0, 2, 4, 6].map(|at| match counts.get(at..at + 2) {
            Some(&[high, low]) => usize::from(u16::from_be_bytes([high, low])),
            _ => usize::MAX,
        });
        let may_fit =
            questions <= 1 && records.iter().all(|count| *count <= bytes.len() / SHORTEST_RECORD);
        let message = may_fit.then(|| Message::from_vec(bytes).ok()).flatten();
        let Some(message) = message else {
            // Old servers send only the header, with the counts of the query.
            return match ResponseCode::from_low(code & 0xf) {
                _ if is_truncated => Received::Truncated,
                ResponseCode::NoError | ResponseCode::NXDomain => Received::Malformed,
                code => of_error(code),
            };
        };
        let code = message.metadata.response_code;
        match message.queries.as_slice() {
            [query] if *query != self.query => Received::Foreign,
            [] if matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) => {
                Received::Foreign
            }
            _ if is_truncated => Received::Truncated,
            _ if matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) => {
                Received::Answer(Box::new(message))
            }
            _ => of_error(code),
        }
    }
}

fn of_error(code: ResponseCode) -> Received {
    /// Shares its number with BADSIG, which hickory returns.
    const BADVERS: u16 = 16;
    match code {
        ResponseCode::FormErr | ResponseCode::NotImp | ResponseCode::ServFail => {
            Received::Objection
        }
        code if u16::from(code) == BADVERS => Received::Objection,
        _ => Received::Error,
    }
}

/// Finds the addresses of a name in an answer, through its aliases. Follows at most `names` names,
/// including this one.
pub(super) fn content(answer: &Message, name: &Name, family: RecordType, names: usize) -> Content {
    if answer.metadata.response_code == ResponseCode::NXDomain {
        return Content::Nothing(negative_ttl(answer));
    }
    let mut ttl = u32::MAX;
    let mut chain = vec![name];
    while let Some(end) = chain.last()
        && let Some((alias, of_alias)) = alias_of(answer, end)
        && !chain.contains(&alias)
    {
        if chain.len() >= names {
            return Content::Nothing(None);
        }
        chain.push(alias);
        ttl = ttl.min(of_alias);
    }
    let mut addresses = Vec::new();
    for record in of_class(&answer.answers) {
        let address = record.data.ip_addr().filter(|_| record.record_type() == family);
        if let Some(address) = address.filter(|_| chain.contains(&&record.name)) {
            ttl = ttl.min(record.ttl);
            if addresses.len() < MOST_OF_FAMILY && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    let end = chain.last().copied().unwrap_or(name);
    let is_end_known = alias_of(answer, end).is_some() || negative_ttl(answer).is_some();
    if !addresses.is_empty() {
        Content::Addresses(addresses, ttl)
    } else if chain.len() > 1 && !is_end_known {
        Content::Alias { end: end.clone(), names: chain.len(), ttl }
    } else {
        Content::Nothing(negative_ttl(answer))
    }
}

/// Returns the target of an alias. A name has one CNAME (RFC 1034 §3.6.2). Of several, the smallest
/// is used, so that their order does not matter.
fn alias_of<'a>(answer: &'a Message, owner: &Name) -> Option<(&'a Name, u32)> {
    of_class(&answer.answers)
        .filter(|record| record.name == *owner)
        .filter_map(|record| match &record.data {
            RData::CNAME(alias) => Some((&alias.0, record.ttl)),
            _ => None,
        })
        .min()
}

fn of_class(records: &[Record]) -> impl Iterator<Item = &Record> {
    records.iter().filter(|record| record.dns_class == DNSClass::IN)
}

/// Returns the TTL of a negative answer, in seconds (RFC 2308 §5).
fn negative_ttl(answer: &Message) -> Option<u32> {
    of_class(&answer.authorities).find_map(|record| match &record.data {
        RData::SOA(soa) => Some(soa.minimum.min(record.ttl)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_proto::rr::rdata::{A, AAAA, CNAME, SOA};
    use proptest::prelude::*;
    use proptest::sample::subsequence;

    use super::*;

    fn name(text: &str) -> Name {
        let mut name = Name::from_ascii(text).unwrap();
        name.set_fqdn(true);
        name
    }

    fn numbered(number: usize) -> Name {
        name(&format!("n{number}.example.net"))
    }

    fn alias(owner: &Name, of: &Name) -> Record {
        Record::from_rdata(owner.clone(), 60, RData::CNAME(CNAME(of.clone())))
    }

    fn v4(owner: &Name, last: u8) -> Record {
        Record::from_rdata(owner.clone(), 300, RData::A(A(Ipv4Addr::new(20, 1, 2, last))))
    }

    fn answer(question: &Question, records: Vec<Record>) -> Message {
        let mut answer = Message::response(question.id, hickory_proto::op::OpCode::Query);
        answer.add_query(question.query.clone());
        answer.add_answers(records);
        answer
    }

    fn question() -> Question {
        Question::new(&name("contoso.azurecr.io"), RecordType::A, Extension::Edns)
    }

    /// The content of an answer with these records, its addresses sorted.
    fn found(records: Vec<Record>) -> Content {
        let message = answer(&question(), records);
        match content(&message, &numbered(0), RecordType::A, LONGEST_CHAIN) {
            Content::Addresses(mut addresses, ttl) => {
                addresses.sort_unstable();
                Content::Addresses(addresses, ttl)
            }
            other => other,
        }
    }

    proptest! {
        /// Any permutation of a chain and of what does not belong to it gives the same addresses.
        #[test]
        fn the_order_of_records_does_not_matter(
            (links, strangers, records) in (0..LONGEST_CHAIN, 0..6_usize).prop_flat_map(
                |(links, strangers)| {
                    let chain = (0..links).map(|n| alias(&numbered(n), &numbered(n + 1)));
                    let end = numbered(links);
                    let mut records: Vec<Record> = chain.collect();
                    records.extend([v4(&end, 1), v4(&end, 2)]);
                    records.extend((0..strangers).map(|n| v4(&name(&format!("s{n}.net")), 66)));
                    records.extend((0..strangers).map(|n| {
                        alias(&name(&format!("t{n}.net")), &numbered(0))
                    }));
                    (Just(links), Just(strangers), Just(records).prop_shuffle())
                }
            )
        ) {
            let ttl = if links == 0 { 300 } else { 60 };
            let expected = [1, 2].map(|last| IpAddr::from([20, 1, 2, last]));
            prop_assert_eq!(
                found(records),
                Content::Addresses(expected.to_vec(), ttl),
                "{} links, {} strangers", links, strangers
            );
        }

        /// Records that make any graph, with loops and several aliases of one name, are followed to
        /// an end, and to the same one in any order.
        #[test]
        fn any_graph_of_aliases_has_one_end(
            (records, shuffled) in prop::collection::vec((0..8_usize, 0..8_usize, any::<bool>()), 0..20)
                .prop_flat_map(|edges| {
                    let records: Vec<Record> = edges
                        .into_iter()
                        .map(|(from, to, is_alias)| match is_alias {
                            true => alias(&numbered(from), &numbered(to)),
                            false => v4(&numbered(from), to as u8),
                        })
                        .collect();
                    (Just(records.clone()), Just(records).prop_shuffle())
                })
        ) {
            prop_assert_eq!(found(records), found(shuffled));
        }

        /// Whatever is cut out of an answer, no address appears that was not in it.
        #[test]
        fn less_is_never_more(
            kept in subsequence((0..12_usize).collect::<Vec<_>>(), 0..=12)
        ) {
            let all: Vec<Record> = (0..10)
                .map(|n| alias(&numbered(n), &numbered(n + 1)))
                .chain([v4(&numbered(10), 1), v4(&name("other.example.com"), 66)])
                .collect();
            let records = kept.iter().map(|at| all[*at].clone()).collect();
            if let Content::Addresses(addresses, _) = found(records) {
                prop_assert_eq!(addresses, vec![IpAddr::from([20, 1, 2, 1])]);
                prop_assert!(kept.starts_with(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]));
            }
        }

        #[test]
        fn nothing_panics(
            changes in prop::collection::vec((any::<usize>(), any::<u8>()), 0..8),
            cut in any::<usize>(),
        ) {
            let question = question();
            let records = vec![alias(&numbered(0), &numbered(1)), v4(&numbered(1), 1)];
            let mut bytes = answer(&question, records).to_vec().unwrap();
            for (at, byte) in changes {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            bytes.truncate(cut % (bytes.len() + 1));
            if let Received::Answer(message) = question.judge(&bytes) {
                let _ = content(&message, &numbered(0), RecordType::A, LONGEST_CHAIN);
            }
        }
    }

    #[test]
    fn chains_are_bounded_and_continued() {
        let chain = |links| (0..links).map(|n| alias(&numbered(n), &numbered(n + 1)));
        let whole = |links| chain(links).chain([v4(&numbered(links), 1)]).collect::<Vec<_>>();
        let one = vec![IpAddr::from([20, 1, 2, 1])];
        assert_eq!(found(whole(LONGEST_CHAIN - 1)), Content::Addresses(one, 60));
        assert_eq!(found(whole(LONGEST_CHAIN)), Content::Nothing(None));
        let end = numbered(3);
        assert_eq!(found(chain(3).collect()), Content::Alias { end, names: 4, ttl: 60 });
        let around = chain(3).chain([alias(&numbered(3), &numbered(1))]).collect();
        assert_eq!(found(around), Content::Nothing(None), "a loop");
        assert_eq!(found(vec![alias(&numbered(0), &numbered(0))]), Content::Nothing(None));
        assert_eq!(found(Vec::new()), Content::Nothing(None));
    }

    #[test]
    fn an_end_without_this_family_is_not_asked_for_again() {
        let question = question();
        let mut message = answer(&question, vec![alias(&numbered(0), &numbered(1))]);
        let soa = SOA::new(name("example.net"), name("example.net"), 1, 1, 1, 1, 30);
        message.add_authority(Record::from_rdata(name("example.net"), 3600, RData::SOA(soa)));
        let content = content(&message, &numbered(0), RecordType::A, LONGEST_CHAIN);
        assert_eq!(content, Content::Nothing(Some(30)));
    }

    #[test]
    fn other_families_and_classes_are_ignored() {
        let v6 = RData::AAAA(AAAA("2603::1".parse().unwrap()));
        let mut chaos = v4(&numbered(0), 1);
        chaos.dns_class = DNSClass::CH;
        let records = vec![Record::from_rdata(numbered(0), 60, v6), chaos];
        assert_eq!(found(records), Content::Nothing(None));
    }

    #[test]
    fn what_received_bytes_are_to_a_question() {
        use ResponseCode::{BADVERS, FormErr, NXDomain, NoError, NotImp, Refused, ServFail};

        let question = question();
        let sound = answer(&question, vec![v4(&name("contoso.azurecr.io"), 1)]);
        let with_code = |code: ResponseCode, queries: bool| {
            let mut message = sound.clone();
            message.metadata.response_code = code;
            message.answers.clear();
            if code == BADVERS {
                message.set_edns(Edns::new());
            }
            if !queries {
                message.queries.clear();
            }
            message.to_vec().unwrap()
        };
        let bytes = sound.to_vec().unwrap();
        let changed = |at: usize, byte: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = byte;
            bytes
        };
        let upper = {
            let mut message = sound.clone();
            message.queries[0].set_name(name("CONTOSO.azurecr.io"));
            message.to_vec().unwrap()
        };
        let other = {
            let mut message = sound.clone();
            message.queries[0].set_name(name("fabrikam.azurecr.io"));
            message.to_vec().unwrap()
        };
        let header = |code: u8| changed(3, code)[..HEADER].to_vec();
        let cases: &[(&str, Vec<u8>, &str)] = &[
            ("sound", bytes.clone(), "Answer"),
            ("in upper case", upper, "Answer"),
            ("no such name", with_code(NXDomain, true), "Answer"),
            ("no such name, without question", with_code(NXDomain, false), "Foreign"),
            ("nothing, without question", with_code(NoError, false), "Foreign"),
            ("another question", other, "Foreign"),
            ("another id", changed(1, bytes[1] ^ 1), "Foreign"),
            ("a query", changed(2, 1), "Foreign"),
            ("an update", changed(2, 0xa8), "Foreign"),
            ("short", bytes[..11].to_vec(), "Foreign"),
            ("cut", bytes[..40].to_vec(), "Malformed"),
            ("many records announced", changed(6, 0xff), "Malformed"),
            ("truncated", changed(2, 0x83), "Truncated"),
            ("truncated and cut", changed(2, 0x83)[..40].to_vec(), "Truncated"),
            ("FORMERR", with_code(FormErr, true), "Objection"),
            ("FORMERR without question", with_code(FormErr, false), "Objection"),
            ("FORMERR, the header alone", header(1), "Objection"),
            ("NOTIMP", with_code(NotImp, true), "Objection"),
            ("NOTIMP, the header alone", header(4), "Objection"),
            ("BADVERS", with_code(BADVERS, true), "Objection"),
            ("SERVFAIL", with_code(ServFail, true), "Objection"),
            ("SERVFAIL, the header alone", header(2), "Objection"),
            ("REFUSED", with_code(Refused, true), "Error"),
            ("REFUSED, the header alone", header(5), "Error"),
        ];
        for (label, bytes, expected) in cases {
            let received = format!("{:?}", question.judge(bytes));
            assert!(received.starts_with(expected), "{label}: {received}");
        }
    }
}
