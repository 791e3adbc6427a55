//! A tunnel whose requests are judged one by one: everything up to its ClientHello is judged here, and
//! what is inside it elsewhere.

use std::sync::Arc;

use super::gate::Gate;
use super::relay::RevocationWatch;
use super::state::{Session, Tunnel};
use crate::account::{Open, Stage};
use crate::config::ListenerSpec;
use crate::dial::Connection;
use crate::hello::Hello;
use crate::limits::{Bounds, SessionPermit};
use crate::listen::tls::ClientStream;
use crate::policy::{Cleared, ClientIdentity};

/// A tunnel that is to be inspected. Its client waits for the ServerHello.
pub struct Intercepted {
    /// The state that all sessions share.
    pub gate: Arc<Gate>,
    /// The listener that accepted it.
    pub listener: Arc<ListenerSpec>,
    /// Who connected.
    pub client: ClientIdentity,
    /// The session's account. It is closed by the code that serves the connection.
    pub account: Open,
    /// Its slot among the open sessions.
    pub permit: Option<SessionPermit>,
    /// Judges it again after a reload.
    pub watch: RevocationWatch,
    /// The limits of the tunnel.
    pub bounds: Arc<Bounds>,
    /// The generation of the policy that permitted it.
    pub generation: u64,
    /// The client's connection.
    pub stream: ClientStream,
    /// What the client has sent, judged.
    pub hello: Box<Hello>,
    /// The permission to serve it.
    pub cleared: Cleared,
    /// The dialled server.
    pub connection: Connection,
}

impl Session {
    /// Hands a tunnel over to be inspected.
    pub(super) fn intercept(mut self: Box<Self>, tunnel: Box<Tunnel>) -> Box<Intercepted> {
        self.account.record.stages.enter(Stage::Relay);
        self.account.record.is_inspected = true;
        let bounds = Arc::new(self.bounds(tunnel.cleared.permit().allowed()));
        let generation = self.policy.generation();
        let Tunnel { client: stream, upstream, address, cleared, hello } = *tunnel;
        let Self { gate, listener, client, certificate, account, permit, policy_updates, .. } =
            *self;
        let watch = RevocationWatch::new(
            (gate.clone(), listener.clone()),
            client.clone(),
            certificate,
            policy_updates,
            address,
        );
        let connection = Connection { upstream, address, parent: None };
        Box::new(Intercepted {
            gate,
            listener,
            client,
            account,
            permit,
            watch,
            bounds,
            generation,
            stream,
            hello,
            cleared,
            connection,
        })
    }
}
