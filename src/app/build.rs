//! Creates the state that all sessions share.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::info;

use super::descriptors::{DescriptorBudget, descriptors};
use super::workers::Workers;
use crate::account::{Account, Sink};
#[cfg(feature = "mirror")]
use crate::config::Mode;
use crate::config::{AuditTarget, Authority, Profile, Settings, TlsOfListeners};
use crate::dial::{Dialler, Resolver, TlsClients, Verifier};
use crate::dns::Sources;
#[cfg(feature = "mirror")]
use crate::forward::Forward;
use crate::limits::{Passwords, PendingConnections, Quotas, Sessions};
use crate::listen::http::connect::AcceptedConnect;
#[cfg(feature = "inspect")]
use crate::listen::leaf::Leaves;
use crate::policy::{OwnAddresses, PolicySet};
use crate::relay::{self, Relay};
use crate::session::Gate;

/// Values that a reload or the machine changes at run time.
pub(super) struct Inputs {
    pub(super) policy: watch::Receiver<Arc<PolicySet>>,
    pub(super) own: watch::Receiver<Arc<OwnAddresses>>,
    pub(super) tls: watch::Receiver<Arc<TlsOfListeners>>,
    pub(super) authority: watch::Receiver<Option<Arc<Authority>>>,
    pub(super) roots: Arc<TlsClients>,
}

/// Starts the worker threads, one per processor or as `profile` says, and creates the shared state.
/// The threads end when the guard is dropped.
///
/// # Errors
/// If the audit cannot be written, or the system cannot create a thread.
pub(super) fn gate(
    settings: &Settings,
    inputs: Inputs,
) -> anyhow::Result<(Arc<Gate>, Workers, DropGuard)> {
    let Inputs { policy, own, tls, authority, roots } = inputs;
    let account = account(settings)?;
    let budget = DescriptorBudget::new(descriptors());
    if policy.borrow().limits().open_sessions > budget.sessions {
        info!("the limit of open files (RLIMIT_NOFILE) allows {} open sessions", budget.sessions);
    }
    let (threads, pipe_size) = match settings.conduct.profile {
        Profile::Normal => {
            (std::thread::available_parallelism().map_or(1, usize::from), relay::PIPE_SIZE)
        }
        Profile::Small => (1, relay::SMALL_PIPE_SIZE),
    };
    let (workers, guard) = Workers::start(threads).context("no thread to serve with")?;
    account.count_tasks_of(workers.runtimes());
    let resolver = Arc::new(Resolver::new(&policy.borrow().rules().dns_servers));
    let dialler = Arc::new(Dialler::new(resolver.clone()));
    #[cfg(feature = "mirror")]
    let forward = {
        // A reload can begin to inspect.
        let mirrors = settings.listeners.iter().any(|one| one.mode == Mode::Mirror);
        (mirrors || cfg!(feature = "inspect"))
            .then(|| Arc::new(Forward::new(dialler.clone(), roots.clone())))
    };
    let verifier = Arc::new(Verifier::new(roots, dialler.clone()));
    let gate = Gate {
        policy,
        own,
        tls,
        #[cfg(feature = "inspect")]
        leaves: Leaves::new(authority.clone()),
        authority,
        resolver,
        verifier,
        dialler,
        #[cfg(feature = "mirror")]
        forward,
        draining: CancellationToken::new(),
        relay: Relay::new(relay::RelaySettings {
            batch: settings.batch,
            pipes: threads,
            pipe_size,
        }),
        sessions: Sessions::default(),
        quotas: Quotas::default(),
        passwords: Passwords::new(threads / 2)?,
        accepted: AcceptedConnect::new()?,
        pending: PendingConnections::new(budget.pending),
        max_sessions: budget.sessions,
        account,
    };
    Ok((Arc::new(gate), workers, guard))
}

fn account(settings: &Settings) -> anyhow::Result<Arc<Account>> {
    let sink = match &settings.audit {
        AuditTarget::StandardOutput => Sink::StandardOutput,
        AuditTarget::File(path) => Sink::File(path.clone()),
        AuditTarget::Syslog(path) => Sink::Syslog(path.clone()),
        AuditTarget::Journal(path) => Sink::Journal(path.clone()),
    };
    Ok(Account::with(prometheus::Registry::new(), sink, settings.on_full)?)
}

impl From<&Gate> for Sources {
    fn from(gate: &Gate) -> Self {
        Self {
            policy: gate.policy.clone(),
            own: gate.own.clone(),
            resolver: gate.resolver.clone(),
            account: gate.account.clone(),
        }
    }
}
