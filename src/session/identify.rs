//! Identifies the client before its request: the PROXY header of a load balancer and the client
//! certificate.

use std::os::fd::OwnedFd;
use std::pin::pin;

use tokio::net::TcpStream;
use tokio::time::sleep_until;
use tokio_util::either::Either;

use super::refuse::{Refusal, evicted, session_limit};
use super::state::{CLIENT_ABORTED, CertificateWatch, INTERNAL, Session};
use crate::account::{AuditText, Stage};
use crate::config::Mode;
use crate::listen::proxy_protocol::{self, HeaderFault, NoHeader};
use crate::listen::tls::{self, ClientStream, NoTls};
use crate::policy::{ClientAddress, ClientIdentity, Denial, Reason, Stop};

impl Session {
    /// Reads the client address from the PROXY header and its certificate from the TLS handshake,
    /// if the listener uses them.
    pub(super) async fn identify(&mut self, socket: OwnedFd) -> Result<ClientStream, Box<Refusal>> {
        // A socket belongs to the runtime in which it is created. That fails only if the epoll of
        // the thread accepts no more sockets.
        let Ok(mut socket) = TcpStream::from_std(socket.into()) else {
            return Err(Refusal::silent(INTERNAL));
        };
        match self.read_proxy_header(&mut socket).await {
            Ok(()) => self.accept_tls(socket).await,
            Err(stop) => Err(self.refuse_unread(socket, stop)),
        }
    }

    /// Reads the PROXY header, if the listener requires one.
    async fn read_proxy_header(&mut self, socket: &mut TcpStream) -> Result<(), Stop> {
        let Some(balancers) = &self.listener.balancers else { return Ok(()) };
        let ClientAddress(balancer) = self.client.address;
        if !balancers.iter().any(|network| network.contains(&balancer)) {
            return Err(invalid_proxy_header(HeaderFault::Stranger));
        }
        let read = tokio::select! {
            biased;
            read = proxy_protocol::header(socket, self.request_deadline) => read,
            () = evicted(&mut self.slot) => return Err(session_limit()),
        };
        let client = read.map_err(|none| no_proxy_header(&none, self.listener.mode))?;
        if let Some(client) = client {
            self.client = ClientIdentity::at(client);
            self.account.record.client = client;
            if let Some(slot) = &mut self.slot {
                slot.belongs_to(client);
            }
            self.peer_port = 0;
            self.account.record.note("balancer", AuditText::new(&balancer.to_string()));
        }
        Ok(())
    }

    /// Rejects a client that sent only a PROXY header, in HTTP or TLS, depending on the listener.
    fn refuse_unread(&self, socket: TcpStream, stop: Stop) -> Box<Refusal> {
        let socket = Either::Left(socket);
        match (&stop, self.listener.mode, &self.listener.tls) {
            (Stop::Failed(_) | Stop::Detailed(_), _, _) => Refusal::silent(stop),
            (_, Mode::Connect | Mode::Mirror, None) => Refusal::answer(socket, stop),
            (_, _, _) => Refusal::alert(socket, stop),
        }
    }

    /// Accepts the TLS handshake of the client, if the listener uses TLS.
    async fn accept_tls(&mut self, socket: TcpStream) -> Result<ClientStream, Box<Refusal>> {
        let Some(paths) = &self.listener.tls else { return Ok(Either::Left(socket)) };
        let mut every = self.gate.tls.clone();
        let Some(tls) = every.borrow_and_update().get(paths).cloned() else {
            return Err(Refusal::alert(Either::Left(socket), INTERNAL));
        };
        self.account.record.stages.enter(Stage::Tls);
        let (deadline, slot) = (self.request_deadline, &mut self.slot);
        let accepted = {
            let until = pin!(async move {
                tokio::select! {
                    () = sleep_until(deadline) => Reason::HeadTimeout.into(),
                    () = evicted(slot) => session_limit(),
                }
            });
            // Boxed: a handshake is large, and most listeners have none.
            Box::pin(tls::accept(&tls, socket, until)).await
        };
        let (stream, certificate) = accepted.map_err(|none| self.refuse_without_tls(none))?;
        if let Some(certificate) = certificate {
            let names = certificate.names();
            self.account.record.note("certificate", AuditText::new(&names.to_string()));
            self.client.certificate = Some(Box::new(names));
            self.certificate = Some(Box::new(CertificateWatch::new(certificate, every)));
        }
        self.account.record.stages.enter(Stage::Head);
        Ok(Either::Right(stream))
    }

    /// Rejects a client whose TLS handshake failed.
    fn refuse_without_tls(&mut self, none: NoTls) -> Box<Refusal> {
        match none {
            NoTls::Gone => Refusal::silent(CLIENT_ABORTED),
            NoTls::Clear(socket) => {
                let remedy = "this port speaks TLS; its URL must begin with https://";
                let denial = Denial::with_remedy(Reason::ProxyTls, remedy);
                Refusal::answer(Either::Left(socket), denial)
            }
            NoTls::Ended { stop, socket: Some(socket) } => {
                Refusal::alert(Either::Left(socket), stop)
            }
            // In the middle of a handshake, the client could not read an alert.
            NoTls::Ended { stop, socket: None } => Refusal::silent(stop),
            NoTls::Refused { stop, fault, socket } => {
                self.account.record.note("tls-fault", fault);
                // The TLS library has sent its alert.
                Refusal::close(Either::Left(socket), stop)
            }
        }
    }
}

/// Returns the refusal for a missing PROXY header.
fn no_proxy_header(none: &NoHeader, mode: Mode) -> Stop {
    match (none, mode) {
        (NoHeader::Refused(fault), _) => invalid_proxy_header(*fault),
        (NoHeader::Late, Mode::Connect | Mode::Mirror) => Reason::HeadTimeout.into(),
        (NoHeader::Late, Mode::Transparent(_)) => Reason::HelloTimeout.into(),
        (NoHeader::Gone | NoHeader::Broken(_), _) => CLIENT_ABORTED.into(),
    }
}

/// Returns a denial that describes the error in the PROXY header.
fn invalid_proxy_header(fault: HeaderFault) -> Stop {
    Denial::with_remedy(Reason::ProxyHeaderInvalid, fault.to_string()).into()
}
