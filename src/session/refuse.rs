//! The ways in which a session ends before its bytes are relayed: whoever is refused is recorded
//! first, then told.

use std::future::pending;
use std::io;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use tokio::net::TcpStream;
use tokio_util::either::Either;

use super::{CLIENT_ABORTED, Session};
use crate::config::Mode;
use crate::limits::PendingSlot;
use crate::listen::http::answer::Refusal;
use crate::listen::http::connect;
use crate::listen::intake::{NoHead, NoHello};
use crate::listen::proxy_protocol::{HeaderFault, NoHeader};
use crate::listen::tls::{self, ClientStream, NoTls};
use crate::policy::{Denial, Failure, Reason, Stop};
use crate::relay::{Closing, hear_out};

impl Session {
    /// Ends a connection that sent no head we take.
    pub(super) async fn turn_away<T>(&mut self, socket: ClientStream, none: NoHead) -> Option<T> {
        let stop = match none {
            NoHead::Refused(refused) => {
                let stop = refused.fault.denial().into();
                if let Some(target) = refused.target {
                    self.account.ask(&target);
                    // As the account shows it: user info and a query may be secrets.
                    let shown = self.account.target().map(|text| text.as_str().to_owned());
                    let shown = shown.unwrap_or_default();
                    return self.refuse(socket, &shown, stop, connect::refusal).await;
                }
                stop
            }
            NoHead::Late => Reason::HeadTimeout.into(),
            NoHead::AskedOut => asked_to_leave(),
            NoHead::Gone | NoHead::Broken(_) => return self.lose(CLIENT_ABORTED),
        };
        self.refuse(socket, "the request", stop, connect::refusal).await
    }

    /// Ends a connection of which nothing but its listener is known.
    pub(super) async fn spurn<T>(&mut self, socket: TcpStream, stop: Stop) -> Option<T> {
        let socket = Either::Left(socket);
        match (stop, self.door.mode, &self.door.tls) {
            (Stop::Failed(failure), _, _) => self.lose(failure),
            (stop, Mode::Connect, None) => {
                self.refuse(socket, "the request", stop, connect::refusal).await
            }
            (stop, _, _) => self.cut(socket, stop).await,
        }
    }

    /// Ends a connection that came to no TLS.
    pub(super) async fn forgo_tls<T>(&mut self, none: NoTls) -> Option<T> {
        match none {
            NoTls::Gone => self.lose(CLIENT_ABORTED),
            NoTls::Clear(socket) => {
                let remedy = "this port speaks TLS; the proxy URL has to say https://";
                let stop = Denial::with_remedy(Reason::ProxyTls, remedy).into();
                let socket = Either::Left(socket);
                self.refuse(socket, "the request", stop, connect::refusal).await
            }
            NoTls::Ended { stop, socket: Some(socket) } => {
                self.cut(Either::Left(socket), stop).await
            }
            NoTls::Ended { stop, socket: None } => {
                self.account.close(&Err(stop));
                None
            }
            NoTls::Refused { stop, fault, socket } => {
                self.account.note("tls-fault", fault);
                self.account.close(&Err(stop));
                self.finish(Closing::in_order(Either::Left(socket))).await;
                None
            }
        }
    }

    /// Ends a session before `200`, with an answer that tells why: `write` makes its bytes.
    pub(super) async fn refuse<T>(
        &mut self,
        client: ClientStream,
        host: &str,
        stop: Stop,
        write: impl FnOnce(Response<Full<Bytes>>) -> io::Result<Vec<u8>>,
    ) -> Option<T> {
        let id = self.account.close(&Err(stop.clone()));
        let id = id.map(|id| id.to_string()).unwrap_or_default();
        let response = Refusal { stop: &stop, host: Some(host), id: &id }.response();
        if let Ok(answer) = write(response) {
            self.finish(Closing::with_word(client, answer)).await;
        }
        None
    }

    /// Closes. A refused client that does not go holds its place, and leaves it when it is needed.
    pub(super) async fn finish(&mut self, closing: Closing<ClientStream>) {
        if let Some(client) = closing.client() {
            tls::cork(client);
        }
        // Who was asked out is told so first.
        let Some(client) = closing.say().await else { return };
        tokio::select! {
            () = hear_out(client) => {}
            () = evicted(&mut self.place) => {}
        }
    }

    /// Ends a session that speaks TLS by now, before the relay, with an alert that it was us.
    pub(super) async fn cut<T>(&mut self, client: ClientStream, stop: Stop) -> Option<T> {
        self.account.close(&Err(stop.clone()));
        self.finish(Closing::with_alert(client, &stop)).await;
        None
    }

    /// Ends a session whose client is gone.
    pub(super) fn lose<T>(&mut self, failure: Failure) -> Option<T> {
        self.account.close(&Err(failure.into()));
        None
    }
}

/// The end of a connection whose place was needed for another.
pub(super) fn asked_to_leave() -> Stop {
    Denial::with_remedy(Reason::SessionLimit, "its place was needed for another").into()
}

/// Why there is no PROXY header, as the session's end.
pub(super) fn no_proxy_header(none: &NoHeader, mode: Mode) -> Stop {
    match (none, mode) {
        (NoHeader::Refused(fault), _) => proxy_header_invalid(*fault),
        (NoHeader::Late, Mode::Connect) => Reason::HeadTimeout.into(),
        (NoHeader::Late, Mode::Transparent(_)) => Reason::HelloTimeout.into(),
        (NoHeader::Gone | NoHeader::Broken(_), _) => CLIENT_ABORTED.into(),
    }
}

/// A denial that says what is wrong with the PROXY header.
pub(super) fn proxy_header_invalid(fault: HeaderFault) -> Stop {
    Denial::with_remedy(Reason::ProxyHeaderInvalid, fault.to_string()).into()
}

/// Why there is no hello, as the session's end.
pub(super) fn no_hello(none: &NoHello) -> Stop {
    match none {
        NoHello::Refused(fault) => fault.reason().into(),
        NoHello::Late => Reason::HelloTimeout.into(),
        NoHello::Gone | NoHello::Broken(_) => CLIENT_ABORTED.into(),
    }
}

/// Resolves when the place is needed for another; never for one who has none.
pub(super) async fn evicted(place: &mut Option<PendingSlot>) {
    match place {
        Some(place) => place.evicted().await,
        None => pending().await,
    }
}
