//! The embedded registry: a login server, a data endpoint, and the outside, each on a free port
//! of loopback.
//!
//! The outside stands for every host that no client may reach through the gate. Whoever connects
//! there is counted and hung up on, and so the demonstration can show that nobody did.

use super::answer::{Endpoint, Shelf};
use super::authority::Authority;
use super::image::Image;
use super::{DATA, Fault, LATER_DATA, LATER_LOGIN, LOGIN};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::server::Acceptor;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::LazyConfigAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};
use ulid::Ulid;

pub use super::answer::DataEndpoints;

/// How long a client may take over its TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A registry that serves until it is dropped.
pub struct Registry {
    shelf: Arc<Shelf>,
    arrivals: Arc<Arrivals>,
    login: SocketAddr,
    data: SocketAddr,
    outside: SocketAddr,
    _serving: DropGuard,
}

/// What came where it should not.
#[derive(Debug, Default)]
struct Arrivals {
    outside: AtomicU64,
    strays: AtomicU64,
}

impl Arrivals {
    fn stray(&self) {
        self.strays.fetch_add(1, Ordering::Relaxed);
    }
}

impl Registry {
    /// Puts `image` and `small` on the shelf and serves them on three free ports.
    pub async fn start(authority: &Authority, image: Image, small: Image) -> Result<Self, Fault> {
        let (login, login_address) = listen().await?;
        let (data, data_address) = listen().await?;
        let (outside, outside_address) = listen().await?;
        let shelf = Arc::new(Shelf {
            image,
            small,
            token: Ulid::generate().to_string(),
            signature: Ulid::generate().to_string(),
            data: data_address,
            data_endpoints: Mutex::new(DataEndpoints::Dedicated),
        });
        let arrivals = Arc::new(Arrivals::default());
        let serving = CancellationToken::new();

        for (listener, endpoint) in [(login, Endpoint::Login), (data, Endpoint::Data)] {
            let door = Door {
                endpoint,
                shelf: Arc::clone(&shelf),
                arrivals: Arc::clone(&arrivals),
                tls: authority.server(),
            };
            tokio::spawn(serving.clone().run_until_cancelled_owned(door.serve(listener)));
        }
        let counting = count(outside, Arc::clone(&arrivals));
        tokio::spawn(serving.clone().run_until_cancelled_owned(counting));

        Ok(Self {
            shelf,
            arrivals,
            login: login_address,
            data: data_address,
            outside: outside_address,
            _serving: serving.drop_guard(),
        })
    }

    /// Where the login server listens.
    #[must_use]
    pub fn login(&self) -> SocketAddr {
        self.login
    }

    /// Where the data endpoint listens.
    #[must_use]
    pub fn data(&self) -> SocketAddr {
        self.data
    }

    /// Where every forbidden host is said to be.
    #[must_use]
    pub fn outside(&self) -> SocketAddr {
        self.outside
    }

    /// The image that clients pull.
    #[must_use]
    pub fn image(&self) -> &Image {
        &self.shelf.image
    }

    /// The small image.
    #[must_use]
    pub fn small_image(&self) -> &Image {
        &self.shelf.small
    }

    /// Turns dedicated data endpoints on or off, as `az acr update --data-endpoint-enabled` does.
    pub fn switch(&self, data_endpoints: DataEndpoints) {
        let mut current = self.shelf.data_endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        *current = data_endpoints;
    }

    /// Connections that reached the outside.
    #[must_use]
    pub fn reached_outside(&self) -> u64 {
        self.arrivals.outside.load(Ordering::Relaxed)
    }

    /// Connections at the registry that brought something else than TLS for one of its own names.
    #[must_use]
    pub fn strays(&self) -> u64 {
        self.arrivals.strays.load(Ordering::Relaxed)
    }
}

async fn listen() -> Result<(TcpListener, SocketAddr), Fault> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .map_err(Fault::during("cannot listen on loopback"))?;
    let address = listener.local_addr().map_err(Fault::during("cannot listen on loopback"))?;
    Ok((listener, address))
}

async fn count(listener: TcpListener, arrivals: Arc<Arrivals>) {
    loop {
        if listener.accept().await.is_ok() {
            arrivals.outside.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// One listening endpoint of the registry.
#[derive(Clone)]
struct Door {
    endpoint: Endpoint,
    shelf: Arc<Shelf>,
    arrivals: Arc<Arrivals>,
    tls: Arc<rustls::ServerConfig>,
}

impl Door {
    async fn serve(self, listener: TcpListener) {
        // Dropping the set, when the registry is dropped, ends the connections.
        let mut connections = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    if let Ok((stream, _)) = accepted {
                        connections.spawn(self.clone().converse(stream));
                    }
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }

    async fn converse(self, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.greet(stream)).await
        else {
            return;
        };
        let service = service_fn(|request| {
            let answer = self.shelf.answer(self.endpoint, &request);
            async move { Ok::<_, Infallible>(answer) }
        });
        // Vectored writes keep hyper from copying a whole layer into its buffer. An error is the
        // client's leaving, which is its own affair.
        let _ = http1::Builder::new()
            .timer(TokioTimer::new())
            .writev(true)
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }

    async fn greet(
        &self,
        stream: TcpStream,
    ) -> io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
        // A tunnel that is cut before its first byte brings nothing.
        if stream.peek(&mut [0]).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream)
            .await
            .inspect_err(|_| self.arrivals.stray())?;
        // No name at all is a client that came by address.
        let ours = match (hello.client_hello().server_name(), self.endpoint) {
            (None, _) => true,
            (Some(name), Endpoint::Login) => name == LOGIN || name == LATER_LOGIN,
            (Some(name), Endpoint::Data) => name == DATA || name == LATER_DATA,
        };
        if !ours {
            self.arrivals.stray();
        }
        hello.into_stream(Arc::clone(&self.tls)).await
    }
}
