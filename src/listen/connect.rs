//! CONNECT, served by hyper from a head that was judged before.
//!
//! hyper gets exactly the judged head and never reads the socket: what came behind the head belongs
//! to the tunnel and stays with the caller. The exchange is driven from the caller's own task, in
//! two steps, so that a session's story can be told in a line: [`Exchange::begin`] until hyper asks
//! for the answer, [`Exchange::answer`] until the answer is written and the socket is free again.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::rt::ReadBufCursor;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWrite;
use tokio::sync::oneshot;

/// A socket that reads as a head and then as nothing, and is written to as it is.
#[derive(Debug)]
struct Replayed<S> {
    head: Bytes,
    socket: TokioIo<S>,
}

impl<S: Unpin> hyper::rt::Read for Replayed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.head.is_empty() {
            // Never woken: hyper has all that it is to see.
            return Poll::Pending;
        }
        let length = self.head.len().min(buffer.remaining());
        buffer.put_slice(&self.head.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> hyper::rt::Write for Replayed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, slices)
    }
}

/// Answers one request with whatever the session decides.
#[derive(Debug)]
struct OneAnswer {
    decided: std::sync::Mutex<Option<oneshot::Receiver<Response<Full<Bytes>>>>>,
}

impl Service<Request<Incoming>> for OneAnswer {
    type Response = Response<Full<Bytes>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, io::Error>> + Send>>;

    fn call(&self, _request: Request<Incoming>) -> Self::Future {
        let decided = self.decided.lock().ok().and_then(|mut slot| slot.take());
        Box::pin(async move {
            let decided = decided.ok_or(io::ErrorKind::InvalidInput)?;
            decided.await.map_err(|_| io::ErrorKind::BrokenPipe.into())
        })
    }
}

/// A CONNECT that waits for its answer.
pub struct Exchange<S> {
    connection: http1::Connection<Replayed<S>, OneAnswer>,
    decide: oneshot::Sender<Response<Full<Bytes>>>,
}

impl<S> std::fmt::Debug for Exchange<S> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Exchange")
    }
}

/// In place of a head that was refused, so that hyper writes that refusal too.
const STAND_IN: &[u8] = b"CONNECT refused.invalid:443 HTTP/1.1\r\n\r\n";

impl<S: tokio::io::AsyncRead + AsyncWrite + Unpin + Send> Exchange<S> {
    /// Hands a judged head to hyper.
    pub fn begin(socket: S, head: Bytes) -> Self {
        let (decide, decided) = oneshot::channel();
        let service = OneAnswer { decided: std::sync::Mutex::new(Some(decided)) };
        let replayed = Replayed { head, socket: TokioIo::new(socket) };
        let connection = http1::Builder::new()
            .keep_alive(false)
            .max_buf_size(super::head::LARGEST_HEAD)
            .serve_connection(replayed, service);
        Self { connection, decide }
    }

    /// An exchange whose head was refused and is not replayed.
    pub fn refused(socket: S) -> Self {
        Self::begin(socket, Bytes::from_static(STAND_IN))
    }

    /// Answers, and gives the socket back once the answer is written.
    ///
    /// # Errors
    /// What writing to the socket met, or what hyper found wrong with a head that we let pass.
    pub async fn answer(mut self, response: Response<Full<Bytes>>) -> io::Result<S> {
        // The receiver lives in the connection, which lives here.
        let _ = self.decide.send(response);
        poll_fn(|context| self.connection.poll_without_shutdown(context))
            .await
            .map_err(io::Error::other)?;
        Ok(self.connection.into_parts().io.socket.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    async fn said(head: &'static str, status: u16) -> String {
        let (mut client, server) = duplex(4096);
        let mut response = Response::new(Full::default());
        *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap();
        client.write_all(b"early").await.unwrap();
        let exchange = Exchange::begin(server, Bytes::from_static(head.as_bytes()));
        let mut server = exchange.answer(response).await.unwrap();
        let mut early = [0; 5];
        server.read_exact(&mut early).await.unwrap();
        assert_eq!(&early, b"early");
        drop(server);
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn the_socket_comes_back_with_its_bytes_unread() {
        let head = "CONNECT contoso.azurecr.io:443 HTTP/1.1\r\n\r\n";
        assert!(said(head, 200).await.starts_with("HTTP/1.1 200 OK\r\n"));
        assert!(said(head, 403).await.starts_with("HTTP/1.1 403 Forbidden\r\n"));
        let old = "CONNECT contoso.azurecr.io:443 HTTP/1.0\r\n\r\n";
        assert!(said(old, 200).await.starts_with("HTTP/1.0 200 OK\r\n"));
        assert!(said(old, 403).await.starts_with("HTTP/1.0 403 Forbidden\r\n"));
    }

    #[tokio::test]
    async fn a_refused_head_is_answered_too() {
        let (mut client, server) = duplex(4096);
        let server = Exchange::refused(server).answer(Response::new(Full::default())).await;
        drop(server.unwrap());
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        assert!(!text.contains("content-length"), "{text}");
    }
}
