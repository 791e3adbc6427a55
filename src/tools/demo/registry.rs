//! The embedded registry: a login server, a data endpoint and a trap, each on a free loopback port.
//!
//! The trap stands for every host that is forbidden. It counts and closes every connection, so the
//! demonstration can show that there were none.

use super::answer::{DemoEndpoint, Shelf};
use super::authority::Authority;
use super::image::Image;
use super::{DATA, DemoError, LATER_DATA, LATER_LOGIN, LOGIN};
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

/// Timeout of a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A registry that runs until it is dropped.
pub struct DemoRegistry {
    shelf: Arc<Shelf>,
    arrivals: Arc<Arrivals>,
    login: SocketAddr,
    data: SocketAddr,
    outside: SocketAddr,
    _serving: DropGuard,
}

/// Counters of unexpected connections.
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

impl DemoRegistry {
    /// Serves `image` and `small` on three free ports.
    pub async fn start(
        authority: &Authority,
        image: Image,
        small: Image,
    ) -> Result<Self, DemoError> {
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

        for (listener, endpoint) in [(login, DemoEndpoint::Login), (data, DemoEndpoint::Data)] {
            let door = RegistryListener {
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

    /// Returns the address of the login server.
    #[must_use]
    pub fn login(&self) -> SocketAddr {
        self.login
    }

    /// Returns the address of the data endpoint.
    #[must_use]
    pub fn data(&self) -> SocketAddr {
        self.data
    }

    /// Returns the address that all forbidden hosts resolve to.
    #[must_use]
    pub fn outside(&self) -> SocketAddr {
        self.outside
    }

    /// Returns the image that clients pull.
    #[must_use]
    pub fn image(&self) -> &Image {
        &self.shelf.image
    }

    /// Returns the small image.
    #[must_use]
    pub fn small_image(&self) -> &Image {
        &self.shelf.small
    }

    /// Enables or disables dedicated data endpoints, as `az acr update --data-endpoint-enabled`
    /// does.
    pub fn switch(&self, data_endpoints: DataEndpoints) {
        let mut current = self.shelf.data_endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        *current = data_endpoints;
    }

    /// Returns the number of connections that reached the trap.
    #[must_use]
    pub fn reached_outside(&self) -> u64 {
        self.arrivals.outside.load(Ordering::Relaxed)
    }

    /// Returns the number of connections to the registry without TLS for one of its names.
    #[must_use]
    pub fn strays(&self) -> u64 {
        self.arrivals.strays.load(Ordering::Relaxed)
    }
}

async fn listen() -> Result<(TcpListener, SocketAddr), DemoError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .map_err(DemoError::during("cannot listen on loopback"))?;
    let address = listener.local_addr().map_err(DemoError::during("cannot listen on loopback"))?;
    Ok((listener, address))
}

async fn count(listener: TcpListener, arrivals: Arc<Arrivals>) {
    loop {
        if listener.accept().await.is_ok() {
            arrivals.outside.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A listener of the registry.
#[derive(Clone)]
struct RegistryListener {
    endpoint: DemoEndpoint,
    shelf: Arc<Shelf>,
    arrivals: Arc<Arrivals>,
    tls: Arc<rustls::ServerConfig>,
}

impl RegistryListener {
    async fn serve(self, listener: TcpListener) {
        // The connections end when the set is dropped with the registry.
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
        // Vectored writes keep hyper from copying a whole layer into its buffer. An error means
        // that the client left, which is not counted.
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
        // A tunnel that closes before its first byte does not count.
        if stream.peek(&mut [0]).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream)
            .await
            .inspect_err(|_| self.arrivals.stray())?;
        // A client that connects by address sends no name.
        let ours = match (hello.client_hello().server_name(), self.endpoint) {
            (None, _) => true,
            (Some(name), DemoEndpoint::Login) => name == LOGIN || name == LATER_LOGIN,
            (Some(name), DemoEndpoint::Data) => name == DATA || name == LATER_DATA,
        };
        if !ours {
            self.arrivals.stray();
        }
        hello.into_stream(Arc::clone(&self.tls)).await
    }
}
