//! The answerer: DNS for the clients of a gateway, so that DNS is no way out.
//!
//! A and AAAA of names that the policy allows are answered, with the gate's own addresses or with
//! the real ones as far as they may be dialled. Every other name and every other type is refused
//! without asking any server, so that nothing can be smuggled out in labels; HTTPS and SVCB have no
//! data, so that no client learns a key for Encrypted ClientHello. Each query is judged by the policy
//! that is in force at that moment.
//!
//! hickory reads and writes the messages. The sockets are served here and not by its server, which
//! bounds neither connections nor what is under way.

mod query;
mod rate;
mod wire;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::account::{Account, AuditText, QueryResult, RefusedQuery};
use crate::config::{self, Answer};
use crate::dial::Resolver;
use crate::policy::{Allowed, Cause, ClientIdentity, OwnAddresses, PolicySet, Reason};
use query::{Kind, Question, Said};
use rate::Rates;

/// How long clients may keep the gate's own address, and the most that they may keep a real one.
const LONGEST: Duration = Duration::from_secs(60);

/// How long looking up takes at most; clients ask again after five seconds.
const PATIENCE: Duration = Duration::from_secs(4);

/// So many look-ups are waited for at once.
const UNDER_WAY: usize = 512;

/// What an answerer draws on.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The policy in force.
    pub policy: watch::Receiver<Arc<PolicySet>>,
    /// The gate's own place in the network.
    pub own: watch::Receiver<Arc<OwnAddresses>>,
    /// Looks allowed names up.
    pub resolver: Arc<Resolver>,
    /// Keeps the accounts.
    pub account: Arc<Account>,
}

/// Answers queries.
#[derive(Debug)]
pub struct Answerer {
    sources: Sources,
    answer: Answer,
    rates: Rates,
    under_way: Arc<Semaphore>,
}

/// The sockets of one address.
#[derive(Debug)]
pub struct Bound {
    address: SocketAddr,
    udp: UdpSocket,
    tcp: TcpListener,
}

/// What is to be done about a query.
#[derive(Debug)]
enum Next {
    /// Say it.
    Say(Said),
    /// Find the addresses of an allowed name, by the policy that allowed it.
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

impl Answerer {
    /// An answerer as it is configured.
    #[must_use]
    pub fn new(settings: &config::Answerer, sources: Sources) -> Arc<Self> {
        Arc::new(Self {
            sources,
            answer: settings.answer.clone(),
            rates: Rates::new(settings.queries_per_second),
            under_way: Arc::new(Semaphore::new(UNDER_WAY)),
        })
    }

    /// Whether a client may ask now; one that may not is counted.
    fn may_ask(&self, client: IpAddr) -> bool {
        let allowed = self.rates.allow(client, std::time::Instant::now());
        if !allowed {
            self.count(QueryResult::Limited);
        }
        allowed
    }

    /// Judges a query by the policy in force.
    fn judge(&self, question: &Question, client: IpAddr, listener: &Arc<str>) -> Next {
        let set = self.sources.policy.borrow().clone();
        let enforcement = set.rules().enforcement;
        let asker = ClientIdentity::at(client);
        let judged = match question.name() {
            Some(name) => set.judge_host(&name, &asker, enforcement),
            None => Err(Reason::HostNotAllowed.into()),
        };
        let allowed = match judged {
            Ok(allowed) => allowed,
            Err(denial) => {
                self.record_refused(question, client, listener, denial.reason, &set);
                return Next::Say(Said::Refused);
            }
        };
        match (question.kind(), &self.answer) {
            (Kind::Other, _) => Next::Say(Said::Refused),
            (Kind::Service, _) => Next::Say(Said::NoData),
            (Kind::A | Kind::Aaaa, Answer::Gate(own)) => {
                Next::Say(of_kind(question.kind(), own.iter().copied(), LONGEST))
            }
            (Kind::A | Kind::Aaaa, Answer::Real) => Next::LookUp(set, allowed),
        }
    }

    /// Finds the addresses of an allowed name that may be dialled.
    async fn look_up(
        &self,
        question: &Question,
        client: IpAddr,
        listener: &Arc<str>,
        set: &PolicySet,
        allowed: Allowed,
    ) -> Said {
        let by = Instant::now() + PATIENCE;
        let answer = match self.sources.resolver.resolve(set, &allowed, by).await {
            Ok(answer) => answer,
            Err(failure) if failure.cause == Cause::NameNotFound => return Said::NotFound,
            Err(_) => return Said::Failed,
        };
        let own = self.sources.own.borrow().clone();
        match set.judge_addresses(allowed, &answer.addresses, &own) {
            Ok(vetted) => {
                let addresses = vetted.permit.addresses().iter().map(SocketAddr::ip);
                of_kind(question.kind(), addresses, answer.lives.min(LONGEST))
            }
            Err(none) => {
                self.record_refused(question, client, listener, none.denial.reason, set);
                Said::Refused
            }
        }
    }

    fn record_refused(
        &self,
        question: &Question,
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

    fn count_said(&self, said: &Said) {
        self.count(match said {
            Said::Addresses(..) => QueryResult::Answered,
            Said::NoData => QueryResult::NoData,
            Said::NotFound => QueryResult::NotFound,
            Said::Refused => QueryResult::Refused,
            Said::Failed => QueryResult::Failed,
            Said::Malformed | Said::NotImplemented | Said::BadVersion => QueryResult::Malformed,
        });
    }
}

/// Those of the kind that is asked for, each once.
fn of_kind(kind: Kind, addresses: impl Iterator<Item = IpAddr>, lives: Duration) -> Said {
    let mut found: Vec<IpAddr> = Vec::new();
    for address in addresses.filter(|address| kind.takes(address)) {
        if !found.contains(&address) {
            found.push(address);
        }
    }
    if found.is_empty() { Said::NoData } else { Said::Addresses(found, lives) }
}

#[cfg(test)]
mod tests;
