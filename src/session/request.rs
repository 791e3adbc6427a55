//! Reads the request of a client and its ClientHello: first a CONNECT head on a connect listener,
//! only the ClientHello on a transparent one.

use std::io;

use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;
use tokio_util::either::Either;

use super::refuse::{Refusal, evicted, needed, session_limit};
use super::state::{CLIENT_ABORTED, INTERNAL, Session};
use crate::account::{AuditText, Stage};
use crate::config::{Capture, Mode};
use crate::hello::Hello;
use crate::listen::http::answer::shown;
use crate::listen::http::authorization::Authorization;
use crate::listen::http::head::{Head, Version};
use crate::listen::intake::{self, Arrived, NoHead, NoHello};
use crate::listen::tls::ClientStream;
use crate::listen::transparent::original_destination;
use crate::policy::{Cleared, Denial, HTTPS, Login, Permit, Reason, Stop, Target, Via};

/// The request of a client.
pub(super) struct Request {
    /// The target.
    pub(super) target: Target,
    /// The password authentication.
    pub(super) authorization: Option<Authorization>,
    /// The gates that it has passed.
    via: Via,
    client: ClientStream,
    form: RequestForm,
}

/// The form of the request.
enum RequestForm {
    /// CONNECT.
    Connect {
        version: Version,
        /// The head, which needs an HTTP answer.
        head: Bytes,
        /// The first bytes of the tunnel, received with the head.
        early: Bytes,
    },
    /// A ClientHello only: the client was redirected.
    Hello(Box<Hello>),
}

/// A client that got `200` and whose ClientHello was accepted.
pub(super) struct TunnelStart {
    pub(super) client: ClientStream,
    pub(super) hello: Box<Hello>,
    pub(super) cleared: Cleared,
}

impl Request {
    /// Bytes of the tunnel that arrived with the request.
    pub(super) fn early(&self) -> &[u8] {
        match &self.form {
            RequestForm::Connect { early, .. } => early,
            RequestForm::Hello(_) => &[],
        }
    }

    /// The gates that it has passed.
    pub(super) fn via(&self) -> &Via {
        &self.via
    }

    /// Returns the denial of its target.
    pub(super) fn denied(&self, denial: Denial) -> Denial {
        match &self.form {
            RequestForm::Connect { .. } => denial,
            RequestForm::Hello(_) => denial.of_hello(),
        }
    }

    /// Refuses it, in the protocol that the client speaks now.
    pub(super) fn refuse(self, stop: Stop) -> Box<Refusal> {
        match self.form {
            RequestForm::Connect { head, .. } => {
                Refusal::answer_to(self.client, stop, Some(head), shown(&self.target))
            }
            RequestForm::Hello(_) => Refusal::alert(self.client, stop),
        }
    }
}

impl Session {
    /// Reads the request before its deadline.
    pub(super) async fn read_request(
        &mut self,
        client: ClientStream,
    ) -> Result<Request, Box<Refusal>> {
        match self.listener.mode {
            Mode::Connect => self.read_head(client).await,
            Mode::Transparent(capture) => self.read_first_hello(client, capture).await,
            // Connections of a mirror are served by `mirror`.
            Mode::Mirror => Err(Refusal::silent(INTERNAL)),
        }
    }

    /// Reads a CONNECT head.
    async fn read_head(&mut self, mut client: ClientStream) -> Result<Request, Box<Refusal>> {
        let arrived = tokio::select! {
            biased;
            arrived = intake::head(&mut client, self.request_deadline) => arrived,
            () = evicted(&mut self.slot) => Err(NoHead::Evicted),
        };
        let Arrived { head, bytes } = match arrived {
            Ok(arrived) => arrived,
            Err(none) => return Err(self.refuse_without_head(client, none)),
        };
        let mut early = Bytes::from(bytes);
        let form = RequestForm::Connect {
            version: head.version,
            head: early.split_to(head.length),
            early,
        };
        let Head { target, authorization, via, .. } = head;
        Ok(Request { target, authorization, via, client, form })
    }

    /// Reads the ClientHello of a redirected client. Its server name is the target.
    async fn read_first_hello(
        &mut self,
        mut client: ClientStream,
        capture: Capture,
    ) -> Result<Request, Box<Refusal>> {
        let original_dst = match &client {
            Either::Left(socket) => original_destination(socket, capture, self.listener.address),
            Either::Right(_) => None,
        };
        if let Some(to) = original_dst {
            self.account.record.head_for(to);
        }
        self.client.login = Login::Impossible;
        let largest = self.policy.limits().hello_bytes;
        let mut memory = self.gate.sessions.reads_hello(self.account.record.client);
        let needed = memory.evicted();
        let keeps = |bytes| memory.keep(bytes);
        let read = tokio::select! {
            biased;
            read = intake::hello(&mut client, &[], largest, self.request_deadline, keeps) => {
                read.map_err(|none| no_hello(&none))
            }
            () = evicted(&mut self.slot) => Err(session_limit()),
            () = needed => Err(session_limit()),
        };
        let hello = match read {
            Ok(hello) => Box::new(hello),
            Err(stop) => return Err(Refusal::alert(client, stop)),
        };
        let name = hello.facts.server_name().clone();
        self.account.record.sni = Some(AuditText::of_name(&name));
        // The port is judged like any other. A client that connected to the listener directly means
        // 443.
        let target = Target { name, port: original_dst.map_or(HTTPS, |to| to.port()) };
        Ok(Request {
            target,
            authorization: None,
            via: Via::default(),
            client,
            form: RequestForm::Hello(hello),
        })
    }

    /// Answers 200 and reads the ClientHello, unless it was read before. Then judges its name.
    pub(super) async fn open_tunnel(
        &mut self,
        request: Request,
        permit: Permit,
    ) -> Result<TunnelStart, Box<Refusal>> {
        let Request { mut client, form, .. } = request;
        let read = match form {
            RequestForm::Hello(hello) => Ok(hello),
            RequestForm::Connect { version, early, head: _ } => {
                let asked = &permit.allowed().target().name;
                self.accept(&mut client, version, &early).await.inspect(|hello| {
                    let name = hello.facts.server_name();
                    // Usually both are equal and share the text of the target.
                    let name = if name == asked { asked } else { name };
                    self.account.record.sni = Some(AuditText::of_name(name));
                })
            }
        };
        let judged = read.and_then(|hello| {
            let cleared = self.policy.judge_hello(permit, hello.facts.server_name())?;
            Ok((hello, cleared))
        });
        match judged {
            Ok((hello, cleared)) => {
                self.setup = None;
                Ok(TunnelStart { client, hello, cleared })
            }
            Err(stop) => Err(Refusal::alert(client, stop)),
        }
    }

    /// Answers 200, and reads the ClientHello that follows.
    async fn accept(
        &mut self,
        client: &mut ClientStream,
        version: Version,
        early: &[u8],
    ) -> Result<Box<Hello>, Stop> {
        let accepted = self.gate.accepted.in_version(version);
        send(client, accepted).await.map_err(|_| CLIENT_ABORTED)?;
        self.account.record.stages.enter(Stage::Hello);
        let limits = self.policy.limits();
        let (largest, deadline) = (limits.hello_bytes, Instant::now() + limits.hello_timeout);
        let needed = needed(self.setup.as_ref());
        let keeps = |bytes| {
            if let Some(slot) = &mut self.setup {
                slot.keep(bytes);
            }
        };
        tokio::select! {
            biased;
            read = intake::hello(client, early, largest, deadline, keeps) => {
                read.map(Box::new).map_err(|none| no_hello(&none))
            }
            () = needed => Err(session_limit()),
        }
    }

    /// Rejects a client without a valid head.
    fn refuse_without_head(&mut self, client: ClientStream, none: NoHead) -> Box<Refusal> {
        match none {
            NoHead::Refused(refused) => {
                let denial = refused.fault.denial();
                let Some(target) = refused.target else { return Refusal::answer(client, denial) };
                self.account.ask(&target);
                if let Some(host) = refused.host {
                    self.account.record.note("host", AuditText::of_request(&host));
                }
                // The form for the audit, without user information and query, which may be secrets.
                let shown = self.account.record.target().map(|text| text.as_str().to_owned());
                Refusal::answer_to(client, denial, None, shown.unwrap_or_default())
            }
            NoHead::Late => Refusal::answer(client, Reason::HeadTimeout),
            NoHead::Evicted => Refusal::answer(client, session_limit()),
            NoHead::Gone | NoHead::Broken(_) => Refusal::silent(CLIENT_ABORTED),
        }
    }
}

async fn send(client: &mut ClientStream, bytes: &[u8]) -> io::Result<()> {
    client.write_all(bytes).await?;
    client.flush().await
}

/// Returns the refusal for a missing ClientHello.
fn no_hello(none: &NoHello) -> Stop {
    match none {
        NoHello::Refused(fault) => fault.reason().into(),
        NoHello::Late => Reason::HelloTimeout.into(),
        NoHello::Gone | NoHello::Broken(_) => CLIENT_ABORTED.into(),
    }
}
