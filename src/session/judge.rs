//! From a request to its upstream: limits, policy decisions, name resolution and dialling.

use std::net::SocketAddr;

use tokio::time::Instant;
use tracing::info;

use super::relay::upload_quota;
use super::request::Request;
use super::state::{Admission, Session};
use crate::account::{AuditText, Stage};
use crate::dial::{self, Caller, Connection, DialledServer};
use crate::listen::http::authorization::Authorization;
use crate::policy::{
    Allowed, Cause, ClientAddress, Denial, DetailedFailure, Enforcement, Failure, Login, Permit,
    Reason, Stop,
};

/// The content type of a TLS handshake record (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 22;

/// A dialled upstream, and its permit.
pub(super) struct Dialled {
    pub(super) permit: Permit,
    pub(super) connection: Connection,
}

impl Session {
    /// Counts a session that has sent its request.
    pub(super) fn admit(&mut self, request: &Request) -> Result<(), Denial> {
        self.account.ask_for(&request.target);
        self.admit_session()?;
        self.setup = Some(self.gate.sessions.sets_up(self.account.record.client));
        if request.via().is_loop(self.gate.dialler.id()) {
            let remedy = "a parent proxy leads back to the gate";
            return Err(Denial::with_remedy(Reason::ProxyLoop, remedy));
        }
        if request.early().first().is_some_and(|first| *first != TLS_HANDSHAKE) {
            return Err(Denial::with_remedy(Reason::NotTls, "other protocols are not forwarded"));
        }
        Ok(())
    }

    /// Counts the session and takes the current policy.
    pub(super) fn admit_session(&mut self) -> Result<(), Denial> {
        // The policy may have changed while the gate waited for the client.
        self.policy = self.policy_updates.borrow_and_update().clone();
        self.account.record.generation = self.policy.generation();
        if self.admission == Admission::Draining {
            return Err(Denial::with_remedy(Reason::Draining, "try again"));
        }
        let mut limits = *self.policy.limits();
        limits.open_sessions = limits.open_sessions.min(self.gate.max_sessions);
        let client = self.account.record.client;
        self.permit = Some(self.gate.sessions.admit(client, &limits)?);
        self.account.admit()?;
        self.slot = None;
        Ok(())
    }

    /// Judges the name for this client.
    pub(super) async fn judge_name(&mut self, request: &mut Request) -> Result<Allowed, Denial> {
        self.authenticate(request.authorization.take()).await?;
        let enforcement = self.enforcement();
        let group = self.policy.group_of(&self.client);
        self.account.record.client_name = group.map(|group| group.name.clone());
        let judged = self.policy.judge_name(&request.target, &self.client, enforcement);
        let allowed = judged.map_err(|denial| request.denied(denial))?;
        self.account.allow(&allowed);
        if let (Some(group), Some(permit)) = (allowed.client(), &mut self.permit) {
            self.gate.sessions.admit_to_group(permit, group)?;
        }
        self.check_hourly_quota(&allowed, enforcement)?;
        Ok(allowed)
    }

    /// Verifies the password of the client, if the policy has users.
    async fn authenticate(&mut self, authorization: Option<Authorization>) -> Result<(), Denial> {
        let credentials = match authorization {
            _ if self.policy.users().is_empty() => return Ok(()),
            Some(Authorization::Basic(credentials)) => credentials,
            Some(Authorization::Broken) => {
                let remedy = "user and password are malformed";
                return Err(Denial::with_remedy(Reason::CredentialsRequired, remedy));
            }
            Some(Authorization::Other) | None => return Ok(()),
        };
        let deadline = Instant::now() + self.policy.limits().head_timeout;
        let ClientAddress(from) = self.client.address;
        let passwords = &self.gate.passwords;
        let checking = passwords.check(self.policy.users(), credentials, from, deadline);
        let user = Box::pin(checking).await?;
        self.account.record.note("user", AuditText::new(&user.name));
        self.client.login = Login::Proved(Box::new(user));
        Ok(())
    }

    /// Rejects a client whose upload quota is used up.
    fn check_hourly_quota(
        &self,
        allowed: &Allowed,
        enforcement: Enforcement,
    ) -> Result<(), Denial> {
        let quota = upload_quota(&self.gate, allowed);
        let is_used_up = quota.is_some_and(|quota| quota.left() == 0);
        match enforcement {
            Enforcement::Enforce if is_used_up => {
                let remedy = "its client's hourly quota is used up";
                Err(Denial::with_remedy(Reason::UploadBudget, remedy))
            }
            Enforcement::Enforce | Enforcement::Report => Ok(()),
        }
    }

    /// Resolves an allowed name and judges its addresses.
    pub(super) async fn resolve(
        &mut self,
        allowed: Allowed,
        deadline: Instant,
    ) -> Result<Permit, Stop> {
        self.account.record.stages.enter(Stage::Resolve);
        let answer = self.gate.resolver.resolve(&self.policy, &allowed, deadline).await?;
        if answer.origin == dial::AnswerSource::Stale {
            self.account.record.took_stale_answer();
        }
        Ok(self.judge_addresses(allowed, &answer.addresses)?)
    }

    /// Judges the addresses of an allowed name.
    fn judge_addresses(
        &mut self,
        allowed: Allowed,
        found: &[SocketAddr],
    ) -> Result<Permit, Denial> {
        let own = self.gate.own.borrow().clone();
        self.account.record.compare_headed(found, &own);
        match self.policy.judge_addresses(allowed, found, &own) {
            Ok(vetted) => {
                self.account.record.drop_addresses(vetted.dropped);
                Ok(vetted.permit)
            }
            Err(none) => {
                self.account.record.drop_addresses(none.dropped);
                Err(none.denial)
            }
        }
    }

    /// Connects to one of the permitted addresses, or through the parent. If the addresses are of an
    /// expired DNS answer and refuse the connection, the registry may have moved: then DNS is waited
    /// for.
    pub(super) async fn dial(
        &mut self,
        permit: Permit,
        request: &Request,
        deadline: Instant,
    ) -> Result<Dialled, Stop> {
        self.account.record.stages.enter(Stage::Dial);
        self.account.record.leave_by(permit.allowed().route());
        let caller = self.caller(request);
        let dialled = match self.dial_by(&permit, &caller, deadline).await {
            Err(Stop::Failed(failure)) if self.account.record.is_stale() && is_gone(failure) => {
                let allowed = permit.allowed().clone();
                Box::pin(self.dial_fresh(allowed, &caller, deadline)).await?
            }
            connected => Dialled { permit, connection: connected? },
        };
        self.account.record.upstream = dialled.connection.address;
        if let Some(parent) = &dialled.connection.parent {
            self.account.record.note("parent-address", AuditText::new(parent));
        }
        Ok(dialled)
    }

    /// Verifies the server's certificate by a handshake of the gate's own, unless that was done
    /// within the hour.
    pub(super) async fn verify(
        &mut self,
        dialled: &Dialled,
        request: &Request,
        deadline: Instant,
    ) -> Result<(), DetailedFailure> {
        if !self.policy.rules().verify_upstream {
            return Ok(());
        }
        let Dialled { permit, connection } = dialled;
        let address = connection.address;
        if !self.gate.verifier.holds(permit, address) {
            let (set, own) = (self.policy.clone(), self.gate.own.borrow().clone());
            let (permit, caller) = (permit.clone(), self.caller(request));
            let server = DialledServer { set, own, permit, address, caller };
            // In a box: a handshake is large, and few sessions make one.
            Box::pin(self.gate.verifier.verify(&server, deadline)).await?;
        }
        self.account.record.is_verified = true;
        Ok(())
    }

    /// Dials by the permit's route.
    fn dial_by(
        &self,
        permit: &Permit,
        caller: &Caller,
        deadline: Instant,
    ) -> impl Future<Output = Result<Connection, Stop>> {
        let (gate, policy) = (self.gate.clone(), self.policy.clone());
        let own = gate.own.borrow().clone();
        async move { gate.dialler.dial((&policy, &own), permit, caller, deadline).await }
    }

    /// On whose behalf the gate connects: of use to parents only.
    fn caller(&self, request: &Request) -> Caller {
        let client = SocketAddr::new(self.account.record.client, self.peer_port);
        Caller {
            client: Some(client),
            listener: Some(self.listener.address),
            via: request.via().clone(),
        }
    }

    /// Waits for DNS, and connects to an address of its answer.
    async fn dial_fresh(
        &mut self,
        allowed: Allowed,
        caller: &Caller,
        deadline: Instant,
    ) -> Result<Dialled, Stop> {
        let name = &allowed.target().name;
        info!(%name, "the address of an expired DNS answer refused the connection; waiting for DNS");
        let answer = self.gate.resolver.resolve_anew(&self.policy, &allowed, deadline).await?;
        let permit = self.judge_addresses(allowed, &answer.addresses)?;
        let connection = self.dial_by(&permit, caller, deadline).await?;
        Ok(Dialled { permit, connection })
    }
}

/// Returns whether dialling failed because no server listens at the address.
fn is_gone(failure: Failure) -> bool {
    [Cause::ConnectRefused, Cause::ConnectUnreachable].contains(&failure.cause)
}
