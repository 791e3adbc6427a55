//! A connection on which HTTP requests are served one after another: its client is identified and its
//! session is counted here, its requests are judged elsewhere.

use std::sync::Arc;

use super::gate::Gate;
use super::state::{CertificateWatch, Incoming, Session};
use crate::account::Open;
use crate::config::ListenerSpec;
use crate::limits::{PendingSlot, SessionPermit};
use crate::listen::tls::ClientStream;
use crate::policy::{ClientIdentity, Denial};

/// A connection whose client is identified.
pub struct Identified {
    /// The state that all sessions share.
    pub gate: Arc<Gate>,
    /// The listener that accepted it.
    pub listener: Arc<ListenerSpec>,
    /// Who connected. A user is known by request.
    pub client: ClientIdentity,
    /// The client's certificate, where it has sent one.
    pub certificate: Option<Box<CertificateWatch>>,
    /// The session's account. The code that serves the connection closes it.
    pub account: Open,
    /// Its slot among the open sessions; `None` if it was refused.
    pub permit: Option<SessionPermit>,
    /// Its slot among the pending connections; `None` unless it was refused.
    pub slot: Option<PendingSlot>,
    /// The connection.
    pub stream: ClientStream,
    /// Why no request is served: the answer to the first one.
    pub refusal: Option<Denial>,
}

/// Reads the PROXY header, accepts TLS and counts the session. Returns `None` if the connection has
/// ended: then it is recorded, and the client is notified.
pub async fn identify(incoming: Box<Incoming>) -> Option<Box<Identified>> {
    let (mut session, socket) = Session::open(*incoming);
    let stream = match session.identify(socket).await {
        Ok(stream) => stream,
        Err(refusal) => {
            session.refuse(refusal).await;
            return None;
        }
    };
    let refusal = session.admit_session().err();
    let Session { gate, listener, client, certificate, account, permit, slot, .. } = *session;
    Some(Box::new(Identified {
        gate,
        listener,
        client,
        certificate,
        account,
        permit: permit.filter(|_| refusal.is_none()),
        slot,
        stream,
        refusal,
    }))
}
