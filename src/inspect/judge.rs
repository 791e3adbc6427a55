//! From the head of a request to the right to send it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::Method;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::body::over_quota;
use super::connection::InspectedConnection;
use crate::account::{Granted, OpenRequest};
use crate::oci::{Action, Naming, Request};
use crate::policy::{
    Allowed, AllowedRequest, Client, Denial, EndpointKind, Enforcement, PolicySet, Reason, Stop,
    denial_of_request, is_host,
};
use crate::serve::{Refused, has_body, well_formed};

pub(super) type Revoked = Pin<Box<dyn Future<Output = Stop> + Send>>;

/// A request that may be sent.
pub(super) struct Sending {
    pub(super) set: Arc<PolicySet>,
    pub(super) request: Request,
    pub(super) allowed: AllowedRequest,
    /// Resolves when a reload takes the right away.
    pub(super) revoked: Revoked,
}

impl InspectedConnection {
    /// Judges a request by the policy of now.
    pub(super) fn judge(
        &self,
        request: &hyper::Request<Incoming>,
        account: &mut OpenRequest,
    ) -> Result<Sending, Refused> {
        // Subscribed before the snapshot is taken, so that no reload falls between.
        let mut policy = self.gate.policy.clone();
        let set = policy.borrow_and_update().clone();
        self.admit()?;
        let target = well_formed(request)?;
        let enforcement = self.enforcement(&set);
        let tunnel = self.tunnel(&set, enforcement)?;
        account.client_name = tunnel.client().map(|client: &Arc<Client>| client.name.clone());
        account.granted = tunnel.grant().map(Granted::from);
        self.judge_headers(request)?;
        let method = request.method().as_str();
        let is_data = tunnel.grant().is_some_and(|grant| grant.endpoint == EndpointKind::Data);
        let parsed = match is_data {
            true => Request::stored(method, target),
            false => Request::parse(method, target, Naming::Connection),
        };
        let parsed = parsed.map_err(denial_of_request)?;
        account.ask(&parsed);
        let subject = self.subject(&parsed);
        let refused = |denial: Denial| Refused::from(denial).of(&subject);
        let allowed = set.judge_inspected(&tunnel, &parsed, enforcement).map_err(refused)?;
        account.would_deny = allowed.would_deny().map(|denial| denial.reason);
        let size = head_size(target, request.headers());
        if parsed.operation.action() != Action::Write {
            self.count_upload(size).map_err(refused)?;
        } else if !self.bounds.count_push(size) {
            return Err(refused(over_quota()));
        }
        let (client, cleared, own) =
            (self.client.clone(), self.cleared.clone(), self.gate.own.clone());
        let (listener, asked) = (self.listener.clone(), parsed.clone());
        let revoked = async move {
            while policy.changed().await.is_ok() {
                let set = policy.borrow_and_update().clone();
                let enforcement = listener.enforcement.unwrap_or(set.rules().enforcement);
                let own = own.borrow().clone();
                let permit = cleared.permit();
                let stands = set
                    .still_stands(permit, None, &client, enforcement, &own)
                    .and_then(|tunnel| set.judge_inspected(&tunnel, &asked, enforcement));
                if stands.is_err() {
                    return Reason::PolicyRevoked.into();
                }
            }
            Reason::Draining.into()
        };
        Ok(Sending { set, request: parsed, allowed, revoked: Box::pin(revoked) })
    }

    pub(super) fn enforcement(&self, set: &PolicySet) -> Enforcement {
        self.listener.enforcement.unwrap_or(set.rules().enforcement)
    }

    /// Returns the permission for the tunnel by this set.
    fn tunnel(&self, set: &PolicySet, enforcement: Enforcement) -> Result<Allowed, Denial> {
        let own = self.gate.own.borrow().clone();
        set.still_stands(self.cleared.permit(), None, &self.client, enforcement, &own)
    }

    /// Judges the headers that decide where a request goes and how it is read.
    fn judge_headers(&self, request: &hyper::Request<Incoming>) -> Result<(), Denial> {
        let (headers, target) = (request.headers(), self.target());
        let host = headers.get(header::HOST).map(HeaderValue::to_str);
        if !matches!(host, Some(Ok(host)) if is_host(host, target)) {
            let remedy = format!("the tunnel leads to {target}");
            return Err(Denial::with_remedy(Reason::HostMismatch, remedy));
        }
        let malformed = |remedy: &str| Denial::with_remedy(Reason::RequestMalformed, remedy);
        if headers.contains_key(header::UPGRADE) {
            return Err(malformed("no other protocol can follow (Upgrade)"));
        }
        if request.method() == Method::DELETE && has_body(headers) {
            return Err(malformed("a request that deletes has a body"));
        }
        Ok(())
    }

    /// Counts what a request sends beside what it may push towards the budget of the tunnel.
    pub(super) fn count_upload(&self, size: usize) -> Result<(), Denial> {
        let down = self.delivery.moved();
        let up = self.asked.load(Ordering::Relaxed);
        let reserved = self.bounds.reserve(up, down, size);
        let taken = if reserved.bytes < size { 0 } else { size };
        self.bounds.settle(reserved, taken, up, down);
        if taken < size {
            let remedy = "the requests of this tunnel send too much";
            return Err(Denial::with_remedy(Reason::UploadBudget, remedy));
        }
        self.asked.fetch_add(u64::try_from(size).unwrap_or(u64::MAX), Ordering::Relaxed);
        Ok(())
    }

    /// What a message about a request begins with.
    pub(super) fn subject(&self, request: &Request) -> String {
        let host = &self.target().name;
        match request.operation.repository() {
            Some(repository) => format!("{host}/{repository}"),
            None => host.as_str().to_owned(),
        }
    }
}

fn head_size(target: &str, headers: &HeaderMap) -> usize {
    let length = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len();
    target.len() + headers.iter().map(length).sum::<usize>()
}
