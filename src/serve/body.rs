//! What a client gets as a body: something that is here, or a blob that still comes.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};

use super::delivery::Delivery;
use crate::account::OpenRequest;
use crate::forward::BlobBody;
use crate::limits::Paced;
use crate::policy::{Ending, Stop};

/// A response's body.
pub enum ResponseBody {
    /// It is here.
    Whole(Full<Bytes>),
    /// It comes from a registry.
    Streamed(Box<Streamed>),
}

/// A blob on its way to a client, and what may end it.
pub struct Streamed {
    /// What the registry sends.
    pub blob: BlobBody,
    /// Closed at the end, well or not.
    pub account: OpenRequest,
    /// Resolves when a reload takes the request away.
    pub revoked: Pin<Box<dyn Future<Output = Stop> + Send>>,
    /// The rates that it keeps.
    pub pace: Option<Box<Paced>>,
    /// What the connection has delivered.
    pub delivery: Arc<Delivery>,
}

impl ResponseBody {
    /// A body that is here.
    pub fn whole(bytes: Bytes) -> Self {
        Self::Whole(Full::new(bytes))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(context).map_err(|never| match never {}),
            Self::Streamed(streamed) => {
                let bytes = ready!(streamed.poll_next(context));
                Poll::Ready(bytes.map(|bytes| bytes.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Streamed(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Streamed(_) => SizeHint::default(),
        }
    }
}

impl Streamed {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if let Poll::Ready(stop) = self.revoked.as_mut().poll(context) {
            return Poll::Ready(Some(Err(self.fail(stop))));
        }
        if let Some(pace) = &self.pace {
            ready!(pace.poll(context));
        }
        match ready!(self.blob.poll_next(context)) {
            Some(Ok(bytes)) => {
                if let Some(pace) = &self.pace {
                    pace.moved(bytes.len());
                }
                let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                self.account.bytes_down = self.account.bytes_down.saturating_add(length);
                self.delivery.add(length);
                // HTTP does not ask again once it has as many bytes as were announced.
                if self.blob.is_finished() {
                    self.account.close(&Ok(Ending::Closed));
                }
                Poll::Ready(Some(Ok(bytes)))
            }
            Some(Err(stop)) => Poll::Ready(Some(Err(self.fail(stop)))),
            None => {
                self.account.close(&Ok(Ending::Closed));
                Poll::Ready(None)
            }
        }
    }

    /// Records why the body ends early. HTTP breaks the connection off, so that no client takes what
    /// it has for the whole.
    fn fail(&mut self, stop: Stop) -> io::Error {
        self.revoked = Box::pin(std::future::pending());
        let error = io::Error::other(stop.code());
        self.account.close(&Err(stop));
        error
    }
}

impl Drop for Streamed {
    /// Records why the connection was given up. What was closed before stays as it is.
    fn drop(&mut self) {
        if let Some(stop) = self.delivery.stop() {
            self.account.close(&Err(stop));
        }
    }
}
