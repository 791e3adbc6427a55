//! The DNS server for clients of a gateway (`[answerer]`), which prevents exfiltration over DNS.
//!
//! A and AAAA queries for allowed names are answered with the gate's own addresses, or with the
//! real ones that may be dialled. Other names get NXDOMAIN and other types an empty answer, without
//! querying any server, so DNS labels cannot be used to exfiltrate data. HTTPS and SVCB queries get
//! an empty answer, so no client learns a key for Encrypted ClientHello. Each query is judged by
//! the current policy.
//!
//! hickory parses and writes the messages. Its server is not used, because it limits neither
//! connections nor concurrent queries.

mod query;
mod wire;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::account::{Account, AuditText, QueryResult, RefusedQuery};
use crate::config::{self, AnswerWith};
use crate::dial::Resolver;
use crate::limits::QueryRates;
use crate::policy::{Allowed, Cause, ClientIdentity, OwnAddresses, PolicySet, Reason};
use query::{ClientQuestion, DnsReply, QueryType};

/// TTL of the gate's own addresses, and maximum TTL of real ones.
const LONGEST_TTL: Duration = Duration::from_secs(60);

/// Maximum duration of a look-up. Clients retry after five seconds.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(4);

/// Maximum number of concurrent look-ups.
const MOST_LOOK_UPS: usize = 512;

/// The dependencies of the server.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The current policy.
    pub policy: watch::Receiver<Arc<PolicySet>>,
    /// The gate's own addresses.
    pub own: watch::Receiver<Arc<OwnAddresses>>,
    /// Resolves allowed names.
    pub resolver: Arc<Resolver>,
    /// Counts queries.
    pub account: Arc<Account>,
}

/// Answers DNS queries of clients.
#[derive(Debug)]
pub struct DnsServer {
    sources: Sources,
    answer: AnswerWith,
    rates: QueryRates,
    under_way: Arc<Semaphore>,
}

/// The sockets of one address.
#[derive(Debug)]
pub struct Bound {
    address: SocketAddr,
    udp: UdpSocket,
    tcp: TcpListener,
}

/// What to do with a query.
#[derive(Debug)]
enum Next {
    /// Answer it.
    Answer(DnsReply),
    /// Resolve an allowed name with the policy that allowed it.
    LookUp(Arc<PolicySet>, Allowed),
}

impl Bound {
    /// An address that is bound for both transports.
    #[must_use]
    pub fn new(address: SocketAddr, udp: UdpSocket, tcp: TcpListener) -> Self {
        Self { address, udp, tcp }
    }

    /// Which address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl DnsServer {
    /// Creates a server from its configuration.
    #[must_use]
    pub fn new(settings: &config::Answerer, sources: Sources) -> Arc<Self> {
        Arc::new(Self {
            sources,
            answer: settings.answer.clone(),
            rates: QueryRates::new(settings.queries_per_second),
            under_way: Arc::new(Semaphore::new(MOST_LOOK_UPS)),
        })
    }

    /// Returns whether a client is within its query rate. Counts the query if not.
    fn may_ask(&self, client: IpAddr) -> bool {
        let allowed = self.rates.admit(client, std::time::Instant::now());
        if !allowed {
            self.count(QueryResult::Limited);
        }
        allowed
    }

    /// Judges a query by the current policy.
    fn judge(&self, question: &ClientQuestion, client: IpAddr, listener: &Arc<str>) -> Next {
        let set = self.sources.policy.borrow().clone();
        let enforcement = set.rules().enforcement;
        let asker = ClientIdentity::at(client);
        let judged = match question.name() {
            Some(name) => set.judge_host(&name, &asker, enforcement).map_err(|denial| {
                // A query has no form that a single label could violate.
                match denial.reason {
                    Reason::BadTarget => Reason::HostNotAllowed.into(),
                    _ => denial,
                }
            }),
            None => Err(Reason::HostNotAllowed.into()),
        };
        let allowed = match judged {
            Ok(allowed) => allowed,
            Err(denial) => {
                self.record_refused(question, client, listener, denial.reason, &set);
                return Next::Answer(match question.kind() {
                    QueryType::Unserved => DnsReply::Refused,
                    _ => DnsReply::Denied,
                });
            }
        };
        match (question.kind(), &self.answer) {
            (QueryType::Unserved, _) => Next::Answer(DnsReply::Refused),
            (QueryType::Other, _) => Next::Answer(DnsReply::Withheld),
            (QueryType::Service, _) => Next::Answer(DnsReply::NoData),
            (QueryType::A | QueryType::Aaaa, AnswerWith::Gate(own)) => {
                Next::Answer(of_kind(question.kind(), own.iter().copied(), LONGEST_TTL))
            }
            (QueryType::A | QueryType::Aaaa, AnswerWith::Real) => Next::LookUp(set, allowed),
        }
    }

    /// Resolves an allowed name to addresses that may be dialled.
    async fn look_up(
        &self,
        question: &ClientQuestion,
        client: IpAddr,
        listener: &Arc<str>,
        set: &PolicySet,
        allowed: Allowed,
    ) -> DnsReply {
        let by = Instant::now() + LOOK_UP_TIMEOUT;
        let answer = match self.sources.resolver.resolve(set, &allowed, by).await {
            Ok(answer) => answer,
            Err(failure) if failure.cause == Cause::NameNotFound => return DnsReply::NotFound,
            Err(_) => return DnsReply::Failed,
        };
        let own = self.sources.own.borrow().clone();
        match set.judge_addresses(allowed, &answer.addresses, &own) {
            Ok(vetted) => {
                let addresses = vetted.permit.addresses().iter().map(SocketAddr::ip);
                of_kind(question.kind(), addresses, answer.lives.min(LONGEST_TTL))
            }
            Err(none) => {
                self.record_refused(question, client, listener, none.denial.reason, set);
                DnsReply::Withheld
            }
        }
    }

    fn record_refused(
        &self,
        question: &ClientQuestion,
        client: IpAddr,
        listener: &Arc<str>,
        reason: Reason,
        set: &PolicySet,
    ) {
        self.sources.account.record_refused(RefusedQuery {
            client,
            client_name: set.group_of(&ClientIdentity::at(client)).map(|group| group.name.clone()),
            listener: listener.clone(),
            name: AuditText::new(&question.asked()),
            kind: AuditText::new(&question.kind_text()),
            reason,
            generation: set.generation(),
        });
    }

    fn count(&self, result: QueryResult) {
        self.sources.account.count_query(result);
    }

    fn count_reply(&self, reply: &DnsReply) {
        self.count(match reply {
            DnsReply::Addresses(..) => QueryResult::Answered,
            DnsReply::NoData => QueryResult::NoData,
            DnsReply::NotFound => QueryResult::NotFound,
            DnsReply::Denied | DnsReply::Withheld | DnsReply::Refused => QueryResult::Refused,
            DnsReply::Failed => QueryResult::Failed,
            DnsReply::Malformed | DnsReply::NotImplemented | DnsReply::BadVersion => {
                QueryResult::Malformed
            }
        });
    }
}

/// Returns the addresses of the requested type, without duplicates.
fn of_kind(kind: QueryType, addresses: impl Iterator<Item = IpAddr>, lives: Duration) -> DnsReply {
    let mut found: Vec<IpAddr> = Vec::new();
    for address in addresses.filter(|address| kind.takes(address)) {
        if !found.contains(&address) {
            found.push(address);
        }
    }
    if found.is_empty() { DnsReply::NoData } else { DnsReply::Addresses(found, lives) }
}

#[cfg(test)]
mod tests;
