//! From a request to its upstream: limits, policy decisions, name resolution and dialling.

use std::net::SocketAddr;

use tokio::net::TcpStream;
use tokio::time::Instant;
use tracing::info;

use super::relay::upload_quota;
use super::request::Request;
use super::state::{Admission, Session};
use crate::account::{AuditText, Stage};
use crate::dial;
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
    pub(super) upstream: TcpStream,
    pub(super) address: SocketAddr,
}

impl Session {
    /// Counts the session and takes the current policy.
    pub(super) fn admit(&mut self, request: &Request) -> Result<(), Denial> {
        self.account.ask_for(&request.target);
        // The policy may have changed while the gate waited for the request.
        self.policy = self.policy_updates.borrow_and_update().clone();
        self.account.record.generation = self.policy.generation();
        if self.admission == Admission::Draining {
            return Err(Denial::with_remedy(Reason::Draining, "try again"));
        }
        let mut limits = *self.policy.limits();
        limits.open_sessions = limits.open_sessions.min(self.gate.max_sessions);
        let client = self.account.record.client;
        self.permit = Some(self.gate.sessions.admit(client, &limits)?);
        self.setup = Some(self.gate.sessions.sets_up(client));
        self.account.admit()?;
        self.slot = None;
        if request.early().first().is_some_and(|first| *first != TLS_HANDSHAKE) {
            return Err(Denial::with_remedy(Reason::NotTls, "other protocols are not forwarded"));
        }
        Ok(())
    }

    /// Judges the name for this client.
    pub(super) async fn judge_name(&mut self, request: &mut Request) -> Result<Allowed, Denial> {
        self.authenticate(request.authorization.take()).await?;
        let enforcement = self.enforcement();
        let group = self.policy.group_of(&self.client);
        self.account.record.client_name = group.map(|group| group.name.clone());
        let allowed = self.policy.judge_name(&request.target, &self.client, enforcement)?;
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
        if answer.origin == dial::Origin::Stale {
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

    /// Dials one of the permitted addresses. If they come from an expired DNS answer and refuse the
    /// connection, the registry may have moved, so it waits for DNS.
    pub(super) async fn dial(
        &mut self,
        permit: Permit,
        deadline: Instant,
    ) -> Result<Dialled, Stop> {
        self.account.record.stages.enter(Stage::Dial);
        let dialled = match dial::connect(&permit, deadline).await {
            Err(failure) if self.account.record.is_stale() && is_gone(failure) => {
                Box::pin(self.dial_fresh(permit.allowed().clone(), deadline)).await?
            }
            connected => {
                let (upstream, address) = connected?;
                Dialled { permit, upstream, address }
            }
        };
        self.account.record.upstream = Some(dialled.address);
        Ok(dialled)
    }

    /// Verifies the server's certificate by a handshake of the gate's own, unless that was done
    /// within the hour.
    pub(super) async fn verify(
        &mut self,
        dialled: &Dialled,
        deadline: Instant,
    ) -> Result<(), DetailedFailure> {
        if !self.policy.rules().verify_upstream {
            return Ok(());
        }
        let Dialled { permit, address, .. } = dialled;
        // In a box: a handshake is large, and few sessions make one.
        Box::pin(self.gate.verifier.verify(permit, *address, deadline)).await?;
        self.account.record.is_verified = true;
        Ok(())
    }

    /// Waits for DNS, and dials an address of its answer.
    async fn dial_fresh(&mut self, allowed: Allowed, deadline: Instant) -> Result<Dialled, Stop> {
        let name = &allowed.target().name;
        info!(%name, "the address of an expired DNS answer refused the connection; waiting for DNS");
        let answer = self.gate.resolver.resolve_anew(&self.policy, &allowed, deadline).await?;
        let permit = self.judge_addresses(allowed, &answer.addresses)?;
        let (upstream, address) = dial::connect(&permit, deadline).await?;
        Ok(Dialled { permit, upstream, address })
    }
}

/// Returns whether dialling failed because no server listens at the address.
fn is_gone(failure: Failure) -> bool {
    [Cause::ConnectRefused, Cause::ConnectUnreachable].contains(&failure.cause)
}
