//! The client's side of an inspected tunnel: the ClientHello that was judged comes first, and the guard
//! reads the handshake and the records as in every other tunnel.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::hello::{Cut, Guard, HEADER, Hello, Onward, Output, RecordWatch};
use crate::listen::tls::ClientStream;
use crate::relay::TunnelEnd;

/// Number of bytes that are read at once.
const READ: usize = 4 * 1024;

/// A client's TLS session with the gate.
pub(super) type InnerStream = TlsStream<GuardedHandshake<ClientStream>>;

/// What the guard has found wrong, if anything.
pub(super) type Violation = Arc<OnceLock<Cut>>;

/// A client's stream between the network and the gate's TLS.
#[derive(Debug)]
pub(super) struct GuardedHandshake<S> {
    stream: S,
    phase: Phase,
    /// For TLS: what was read and may pass.
    ready: Vec<u8>,
    /// For the client: what TLS has written and may pass.
    pending: Vec<u8>,
    violation: Violation,
    was_served: bool,
}

#[derive(Debug)]
enum Phase {
    Handshake(Box<Guard>),
    /// TLS 1.2: every record header of the upload is checked.
    Records(RecordWatch, Vec<u8>),
    /// TLS 1.3.
    Free,
}

impl<S> GuardedHandshake<S> {
    /// Begins with a ClientHello that was judged.
    pub(super) fn new(stream: S, hello: Hello) -> Self {
        let phase = Phase::Handshake(Box::new(Guard::new(hello.facts)));
        let (ready, pending) = (hello.raw, Vec::new());
        Self { stream, phase, ready, pending, violation: Arc::default(), was_served: false }
    }

    /// Returns the place where violations are recorded.
    pub(super) fn violation(&self) -> Violation {
        self.violation.clone()
    }

    /// Returns the stream, and whether its client has got bytes of a TLS session already. A
    /// HelloRetryRequest is none.
    pub(super) fn into_inner(self) -> (S, bool) {
        (self.stream, self.was_served)
    }

    /// Takes what the client has sent.
    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        let judged = match &mut self.phase {
            Phase::Free => {
                self.ready.extend_from_slice(bytes);
                Ok(())
            }
            Phase::Records(watch, header) => {
                records(watch, header, bytes).map(|()| self.ready.extend_from_slice(bytes))
            }
            Phase::Handshake(guard) => {
                let mut output = Output::default();
                let judged = guard.client(bytes, &mut output);
                self.ready.extend_from_slice(&output.to_server);
                judged
            }
        };
        judged.map_err(|cut| self.cut(cut))?;
        self.advance();
        Ok(())
    }

    /// Takes what TLS has written.
    fn give(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Phase::Handshake(guard) = &mut self.phase else {
            self.pending.extend_from_slice(bytes);
            return Ok(());
        };
        let mut output = Output::default();
        let judged = guard.server(bytes, &mut output);
        self.pending.extend_from_slice(&output.to_client);
        judged.map_err(|cut| self.cut(cut))?;
        self.advance();
        Ok(())
    }

    fn advance(&mut self) {
        let Phase::Handshake(guard) = &self.phase else { return };
        self.phase = match guard.onward() {
            None => return,
            Some(Onward::Free) => Phase::Free,
            Some(Onward::Records(watch)) => Phase::Records(watch, Vec::new()),
        };
    }

    fn cut(&self, cut: Cut) -> io::Error {
        let _ = self.violation.set(cut);
        io::Error::new(io::ErrorKind::InvalidData, cut.reason().code())
    }
}

/// Checks the headers of the records in `bytes`. `header`: the part of one that has come already.
fn records(watch: &mut RecordWatch, header: &mut Vec<u8>, mut bytes: &[u8]) -> Result<(), Cut> {
    while !bytes.is_empty() {
        let payload = watch.payload_left().min(bytes.len());
        if payload > 0 {
            watch.moved(payload);
            bytes = bytes.get(payload..).unwrap_or_default();
            continue;
        }
        let missing = HEADER.saturating_sub(header.len()).min(bytes.len());
        let (taken, rest) = bytes.split_at(missing);
        header.extend_from_slice(taken);
        bytes = rest;
        if let Ok(whole) = <[u8; HEADER]>::try_from(header.as_slice()) {
            header.clear();
            watch.header(whole).map_err(Cut::Upload)?;
        }
    }
    Ok(())
}

impl TunnelEnd for InnerStream {
    fn bare(&self) -> Option<&TcpStream> {
        self.get_ref().0.stream.bare()
    }
}

impl<S: AsyncWrite + Unpin> GuardedHandshake<S> {
    fn poll_pending(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, &self.pending))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.pending.drain(..written);
            self.was_served |= match &self.phase {
                Phase::Handshake(guard) => guard.served(),
                Phase::Records(..) | Phase::Free => true,
            };
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for GuardedHandshake<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.ready.is_empty() {
                let length = this.ready.len().min(into.remaining());
                into.put_slice(this.ready.get(..length).unwrap_or_default());
                this.ready.drain(..length);
                return Poll::Ready(Ok(()));
            }
            if matches!(this.phase, Phase::Free) {
                return Pin::new(&mut this.stream).poll_read(context, into);
            }
            let mut bytes = [0; READ];
            let mut bytes = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut bytes))?;
            if bytes.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.take(bytes.filled())?;
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for GuardedHandshake<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_pending(context))?;
        if !matches!(this.phase, Phase::Handshake(_)) {
            this.was_served = true;
            return Pin::new(&mut this.stream).poll_write(context, bytes);
        }
        this.give(bytes)?;
        // What is left goes before the next bytes, or with the flush.
        match this.poll_pending(context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(bytes.len())),
        }
    }

    /// All at once: TLS writes an alert and what goes before it only this one time.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_pending(context))?;
        if !matches!(this.phase, Phase::Handshake(_)) {
            this.was_served = true;
            return Pin::new(&mut this.stream).poll_write_vectored(context, parts);
        }
        let mut length = 0;
        for part in parts {
            this.give(part)?;
            length += part.len();
        }
        match this.poll_pending(context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(length)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_pending(context))?;
        Pin::new(&mut this.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_pending(context))?;
        Pin::new(&mut this.stream).poll_shutdown(context)
    }
}
