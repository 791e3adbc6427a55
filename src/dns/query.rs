//! DNS queries of clients and their answers. Pure; hickory parses and writes the bytes.
//!
//! Each message has one question (RFC 9619). Of the rest, only the client's datagram size is used
//! (EDNS, RFC 6891).

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, Metadata, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};

use crate::policy::Name;

/// The header of a message (RFC 1035 §4.1.1).
const HEADER: usize = 12;

/// The maximum size of a query, in bytes. A name has at most 255.
pub(super) const LARGEST: usize = 4096;

/// Datagrams of this size are not fragmented on any network (DNS Flag Day 2020).
const LARGEST_DATAGRAM: u16 = 1232;

/// The size that every client accepts (RFC 1035 §4.2.1).
const SMALLEST_DATAGRAM: u16 = 512;

/// Maximum number of records in a query: an OPT, a signature, and the SOA of an IXFR.
const MOST_RECORDS: u16 = 4;

/// The transport of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// The type of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QueryType {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// HTTPS and SVCB, which would publish keys for Encrypted ClientHello.
    Service,
    /// Any other type.
    Other,
    /// A zone transfer, or a class other than IN.
    Unserved,
}

impl QueryType {
    /// Returns whether an address belongs to the requested family.
    pub(super) fn takes(self, address: &IpAddr) -> bool {
        match self {
            Self::A => address.is_ipv4(),
            Self::Aaaa => address.is_ipv6(),
            Self::Service | Self::Other | Self::Unserved => false,
        }
    }
}

/// The answer to a client.
///
/// Denied names are answered like names that do not exist. REFUSED would make musl wait for its
/// timeout and stop at the first name of a search list; glibc and Go would retry. The answer has no
/// SOA record, so it is not cached (RFC 2308 §5): the next policy may allow the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DnsReply {
    /// Addresses and their TTL.
    Addresses(Vec<IpAddr>, Duration),
    /// The name exists but has no record of this type.
    NoData,
    /// The name is allowed, but the type or its addresses are not. NOERROR without data.
    Withheld,
    /// The name is allowed but does not exist. NXDOMAIN.
    NotFound,
    /// The policy does not allow the name. NXDOMAIN.
    Denied,
    /// A zone transfer or a class other than IN. REFUSED.
    Refused,
    /// The look-up failed. SERVFAIL.
    Failed,
    /// The message is malformed. FORMERR.
    Malformed,
    /// Another operation than a query. NOTIMP.
    NotImplemented,
    /// A version of EDNS that is not 0.
    BadVersion,
}

/// A valid question.
#[derive(Debug)]
pub(super) struct ClientQuestion {
    request: Metadata,
    query: Query,
    /// The client's datagram size, if it announces one.
    takes: Option<u16>,
}

/// Why a message has no valid question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// No answer is sent: the message is an answer itself, or shorter than a header.
    Silence,
    /// This answer, encoded.
    Answer(Vec<u8>),
}

impl ClientQuestion {
    /// Parses a message.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Unfit> {
        let Some(header) = bytes.first_chunk::<HEADER>() else { return Err(Unfit::Silence) };
        let [_, _, flags, _, counts @ ..] = header;
        if flags & 0x80 != 0 {
            // Answering an answer would create a loop.
            return Err(Unfit::Silence);
        }
        if flags >> 3 & 0xf != 0 {
            return Err(refusal(header, &DnsReply::NotImplemented));
        }
        let [questions, others @ ..] = [0, 2, 4, 6].map(|at| match counts.get(at..at + 2) {
            Some(&[high, low]) => u16::from_be_bytes([high, low]),
            _ => u16::MAX,
        });
        if questions != 1 || others.iter().any(|count| *count > MOST_RECORDS) {
            return Err(refusal(header, &DnsReply::Malformed));
        }
        let malformed = |_| refusal(header, &DnsReply::Malformed);
        let message = Message::from_vec(bytes).map_err(malformed)?;
        let takes = message.edns.as_ref().map(Edns::max_payload);
        let version = message.edns.as_ref().map_or(0, Edns::version);
        let Some(query) = message.queries.into_iter().next() else {
            return Err(refusal(header, &DnsReply::Malformed));
        };
        let question = Self { request: message.metadata, query, takes };
        if version != 0 {
            return Err(Unfit::Answer(question.answer(&DnsReply::BadVersion, Transport::Udp)));
        }
        Ok(question)
    }

    /// The queried name in printable characters, without its final dot.
    pub(super) fn asked(&self) -> String {
        let text = self.query.name().to_ascii();
        text.strip_suffix('.').map_or_else(|| text.clone(), ToOwned::to_owned)
    }

    /// Returns the name if it is a valid host name, also of one label.
    pub(super) fn name(&self) -> Option<Name> {
        Name::parse_or_label(&self.asked()).ok()
    }

    pub(super) fn kind(&self) -> QueryType {
        match self.query.query_type() {
            _ if self.query.query_class() != DNSClass::IN => QueryType::Unserved,
            RecordType::A => QueryType::A,
            RecordType::AAAA => QueryType::Aaaa,
            RecordType::HTTPS | RecordType::SVCB => QueryType::Service,
            RecordType::AXFR | RecordType::IXFR => QueryType::Unserved,
            _ => QueryType::Other,
        }
    }

    /// Returns the DNS mnemonic of the record type.
    pub(super) fn kind_text(&self) -> String {
        self.query.query_type().to_string()
    }

    /// Returns the encoded answer.
    pub(super) fn answer(&self, reply: &DnsReply, transport: Transport) -> Vec<u8> {
        let mut message = Message::response(self.request.id, self.request.op_code);
        message.metadata = Metadata::response_from_request(&self.request);
        // Go treats an answer without data and without this flag as a lame referral.
        message.metadata.recursion_available = true;
        message.metadata.response_code = code(reply);
        message.add_query(self.query.clone());
        if self.takes.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(LARGEST_DATAGRAM);
            if matches!(reply, DnsReply::Denied | DnsReply::Withheld | DnsReply::Refused) {
                edns.options_mut().insert(blocked());
            }
            message.set_edns(edns);
        }
        if let DnsReply::Addresses(addresses, lives) = reply {
            let seconds = u32::try_from(lives.as_secs()).unwrap_or(u32::MAX);
            let record = |address: &IpAddr| {
                let data = match address {
                    IpAddr::V4(address) => RData::A(A(*address)),
                    IpAddr::V6(address) => RData::AAAA(AAAA(*address)),
                };
                Record::from_rdata(self.query.name().clone(), seconds, data)
            };
            message.add_answers(addresses.iter().map(record));
        }
        let largest = match (transport, self.takes) {
            (Transport::Tcp, _) => u16::MAX,
            (Transport::Udp, Some(takes)) => takes.clamp(SMALLEST_DATAGRAM, LARGEST_DATAGRAM),
            (Transport::Udp, None) => SMALLEST_DATAGRAM,
        };
        let mut bytes = Vec::with_capacity(SMALLEST_DATAGRAM.into());
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(largest);
        match message.emit(&mut encoder) {
            Ok(()) => bytes,
            // The question alone did not fit, which cannot happen for one that was parsed.
            Err(_) => Vec::new(),
        }
    }
}

/// Extended DNS Error 15, "Blocked" (RFC 8914): shows operators with dig, and `pullgate doctor`,
/// that the policy denied the name and no server was queried.
fn blocked() -> EdnsOption {
    const EXTENDED_DNS_ERROR: u16 = 15;
    const BLOCKED: u16 = 15;
    EdnsOption::Unknown(EXTENDED_DNS_ERROR, BLOCKED.to_be_bytes().to_vec())
}

/// Returns an answer to a message without a usable question: a header only.
fn refusal(header: &[u8; HEADER], reply: &DnsReply) -> Unfit {
    let [id_high, id_low, flags, ..] = *header;
    let operation_and_recursion = flags & 0b0111_1001;
    let code = u8::try_from(u16::from(code(reply))).unwrap_or_default();
    Unfit::Answer(vec![
        id_high,
        id_low,
        0x80 | operation_and_recursion,
        code & 0xf,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    ])
}

fn code(reply: &DnsReply) -> ResponseCode {
    match reply {
        DnsReply::Addresses(..) | DnsReply::NoData | DnsReply::Withheld => ResponseCode::NoError,
        DnsReply::NotFound | DnsReply::Denied => ResponseCode::NXDomain,
        DnsReply::Refused => ResponseCode::Refused,
        DnsReply::Failed => ResponseCode::ServFail,
        DnsReply::Malformed => ResponseCode::FormErr,
        DnsReply::NotImplemented => ResponseCode::NotImp,
        DnsReply::BadVersion => ResponseCode::BADVERS,
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::OpCode;
    use hickory_proto::rr;
    use hickory_proto::rr::rdata::opt::EdnsCode;
    use proptest::prelude::*;

    use super::*;

    fn asking(name: &str, kind: RecordType) -> Message {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(rr::Name::from_ascii(name).unwrap(), kind));
        message
    }

    fn with_nul() -> rr::Name {
        rr::Name::from_labels([&b"a\0b"[..], b"example", b"com"]).unwrap()
    }

    fn read(message: &Message) -> ClientQuestion {
        ClientQuestion::read(&message.to_vec().unwrap()).unwrap()
    }

    fn decoded(question: &ClientQuestion, reply: &DnsReply) -> Message {
        Message::from_vec(&question.answer(reply, Transport::Udp)).unwrap()
    }

    #[test]
    fn questions_are_read_and_answered_in_their_own_case() {
        let message = asking("CONtoso.azurecr.IO.", RecordType::A);
        let question = read(&message);
        assert_eq!(question.name().unwrap().as_str(), "contoso.azurecr.io");
        assert_eq!(question.kind(), QueryType::A);
        let addresses = vec!["10.7.0.1".parse().unwrap(), "10.7.0.2".parse().unwrap()];
        let answer = decoded(&question, &DnsReply::Addresses(addresses, Duration::from_secs(60)));
        assert_eq!(answer.metadata.id, message.metadata.id);
        assert!(answer.metadata.recursion_desired && answer.metadata.recursion_available);
        assert_eq!(answer.queries, message.queries);
        assert_eq!(answer.queries[0].name().to_ascii(), "CONtoso.azurecr.IO.");
        assert_eq!(answer.answers.len(), 2);
        assert_eq!(answer.answers[0].name.to_ascii(), "CONtoso.azurecr.IO.");
        assert_eq!(answer.answers[0].ttl, 60);
        assert_eq!(answer.answers[0].data, RData::A(A("10.7.0.1".parse().unwrap())));
        assert!(answer.edns.is_none());
    }

    #[test]
    fn a_single_label_is_left_to_the_policy() {
        let question = read(&asking("Edge-Parent.", RecordType::A));
        assert_eq!(question.name().unwrap().as_str(), "edge-parent");
    }

    #[test]
    fn types_and_classes() {
        for (kind, expected) in [
            (RecordType::A, QueryType::A),
            (RecordType::AAAA, QueryType::Aaaa),
            (RecordType::HTTPS, QueryType::Service),
            (RecordType::SVCB, QueryType::Service),
            (RecordType::ANY, QueryType::Other),
            (RecordType::AXFR, QueryType::Unserved),
            (RecordType::IXFR, QueryType::Unserved),
            (RecordType::TXT, QueryType::Other),
            (RecordType::CNAME, QueryType::Other),
            (RecordType::NS, QueryType::Other),
            (RecordType::Unknown(65_400), QueryType::Other),
        ] {
            let mut message = asking("contoso.azurecr.io.", kind);
            assert_eq!(read(&message).kind(), expected, "{kind}");
            message.queries[0].set_query_class(DNSClass::CH);
            assert_eq!(read(&message).kind(), QueryType::Unserved, "{kind}");
        }
    }

    #[test]
    fn every_word_has_its_code() {
        let question = read(&asking("contoso.azurecr.io.", RecordType::AAAA));
        for (reply, code) in [
            (DnsReply::NoData, ResponseCode::NoError),
            (DnsReply::Withheld, ResponseCode::NoError),
            (DnsReply::NotFound, ResponseCode::NXDomain),
            (DnsReply::Denied, ResponseCode::NXDomain),
            (DnsReply::Refused, ResponseCode::Refused),
            (DnsReply::Failed, ResponseCode::ServFail),
        ] {
            let answer = decoded(&question, &reply);
            assert_eq!(answer.metadata.response_code, code);
            assert!(answer.answers.is_empty() && answer.authorities.is_empty());
            assert!(answer.edns.is_none(), "it was not asked for");
        }
    }

    #[test]
    fn what_the_policy_denies_is_called_blocked() {
        let mut message = asking("contoso.azurecr.io.", RecordType::A);
        message.set_edns(Edns::new());
        let question = read(&message);
        for (reply, expected) in [
            (DnsReply::NoData, false),
            (DnsReply::NotFound, false),
            (DnsReply::Failed, false),
            (DnsReply::Denied, true),
            (DnsReply::Withheld, true),
            (DnsReply::Refused, true),
        ] {
            let edns = decoded(&question, &reply).edns.unwrap();
            let error = edns.option(EdnsCode::from(15)).cloned();
            assert_eq!(error, expected.then(blocked), "{reply:?}");
        }
    }

    #[test]
    fn an_answer_fits_the_clients_datagram_or_says_that_it_does_not() {
        let addresses: Vec<IpAddr> = (0..64).map(|last| [10, 0, 0, last].into()).collect();
        let reply = DnsReply::Addresses(addresses, Duration::from_secs(1));
        for (takes, largest) in
            [(None, 512), (Some(100), 512), (Some(900), 900), (Some(9000), 1232)]
        {
            let mut message = asking("contoso.azurecr.io.", RecordType::A);
            if let Some(takes) = takes {
                // Below 512 is written as it is: the library would not.
                let mut edns = Edns::new();
                edns.set_max_payload(takes);
                message.set_edns(edns);
            }
            let question = read(&message);
            let bytes = question.answer(&reply, Transport::Udp);
            assert!(bytes.len() <= largest, "{takes:?}: {}", bytes.len());
            let answer = Message::from_vec(&bytes).unwrap();
            assert_eq!(answer.metadata.truncation, largest < 1100, "{takes:?}");
            assert_eq!(answer.edns.is_some(), takes.is_some());
            let whole = Message::from_vec(&question.answer(&reply, Transport::Tcp)).unwrap();
            assert!(!whole.metadata.truncation && whole.answers.len() == 64);
        }
    }

    #[test]
    fn messages_without_a_valid_question() {
        let sound = asking("contoso.azurecr.io.", RecordType::A).to_vec().unwrap();
        let changed = |at: usize, byte: u8| {
            let mut bytes = sound.clone();
            bytes[at] = byte;
            bytes
        };
        let code = |bytes: &[u8]| match ClientQuestion::read(bytes) {
            Err(Unfit::Answer(answer)) => {
                let answer = Message::from_vec(&answer).unwrap();
                Some(answer.metadata.response_code)
            }
            Err(Unfit::Silence) => None,
            Ok(question) => panic!("{question:?}"),
        };
        assert_eq!(code(&[]), None);
        assert_eq!(code(&sound[..11]), None);
        assert_eq!(code(&changed(2, 0x81)), None, "an answer");
        assert_eq!(code(&changed(2, 0x29)), Some(ResponseCode::NotImp), "an update");
        assert_eq!(code(&changed(5, 0)), Some(ResponseCode::FormErr), "no question");
        assert_eq!(code(&changed(5, 2)), Some(ResponseCode::FormErr), "two questions");
        assert_eq!(code(&changed(4, 0xff)), Some(ResponseCode::FormErr), "65,281 questions");
        assert_eq!(code(&changed(10, 0xff)), Some(ResponseCode::FormErr), "many records");
        assert_eq!(code(&sound[..20]), Some(ResponseCode::FormErr), "half a question");
        assert_eq!(code(&changed(12, 0xc0)), Some(ResponseCode::FormErr), "a pointer to itself");
        let mut edns = asking("contoso.azurecr.io.", RecordType::A);
        let mut version = Edns::new();
        version.set_version(1);
        edns.set_edns(version);
        let answer = match ClientQuestion::read(&edns.to_vec().unwrap()) {
            Err(Unfit::Answer(answer)) => Message::from_vec(&answer).unwrap(),
            other => panic!("{other:?}"),
        };
        let high = answer.edns.unwrap().rcode_high();
        assert_eq!((high, answer.metadata.op_code), (1, OpCode::Query), "BADVERS is 16");
    }

    #[test]
    fn names_that_no_policy_could_have() {
        let mut names = [".", "_dmarc.", "_dmarc.example.com.", "1.2.3.4."]
            .map(|name| rr::Name::from_ascii(name).unwrap())
            .to_vec();
        names.push(with_nul());
        for name in names {
            let mut message = asking(".", RecordType::A);
            message.queries[0].set_name(name.clone());
            let question = read(&message);
            assert!(question.name().is_none(), "{name}");
            assert!(question.asked().is_ascii(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(
            changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..6),
            tail in proptest::collection::vec(any::<u8>(), 0..60),
            cut in any::<usize>(),
        ) {
            let mut message = asking("contoso.eastus.data.azurecr.io.", RecordType::A);
            message.set_edns(Edns::new());
            let mut bytes = [message.to_vec().unwrap(), tail].concat();
            for (at, byte) in changes {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            bytes.truncate(cut % (bytes.len() + 1));
            match ClientQuestion::read(&bytes) {
                Ok(question) => {
                    let _ = (question.name(), question.kind_text());
                    let answer = question.answer(&DnsReply::Refused, Transport::Udp);
                    prop_assert!((HEADER..=512).contains(&answer.len()));
                }
                Err(Unfit::Answer(answer)) => prop_assert!(answer.len() >= HEADER),
                Err(Unfit::Silence) => {}
            }
        }
    }
}
