//! Connections to registries: kept open for a while, few at a time.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::BufReader;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::client::TlsStream;

use super::body::RequestBody;
use super::filled::FilledStream;
use crate::dial::Upstream;
use crate::policy::Target;

/// Connections to registries at once, in use or not.
const MOST: usize = 4_096;

/// Connections to one host that are kept while nobody uses them.
const MOST_IDLE_PER_HOST: usize = 16;

/// Connections that are kept in all.
const MOST_IDLE: usize = 256;

/// How long one is kept.
const IDLE: Duration = Duration::from_secs(30);

/// How often those are looked for whose time is over.
const SWEEP: Duration = Duration::from_secs(5);

/// How long a connection may take to be ready for another request after an answer's end.
const READY: Duration = Duration::from_secs(5);

/// The most bytes that are held of an answer before somebody takes them, and the most header lines. In
/// TLS, a full buffer is still less than the 64 KiB that the kernel hands to a network device at once.
const LARGEST_BUFFER: usize = 64 * 1024 - 512;
const MOST_HEADERS: usize = 100;

/// For whom a connection may be used. A reload makes another generation, so that what it revoked is
/// not reached by an old connection. A connection belongs to the thread that has opened it: on another
/// one, each of its bytes would wake both.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct PoolKey {
    pub(super) registry: Arc<str>,
    pub(super) target: Target,
    pub(super) generation: u64,
    pub(super) thread: ThreadId,
}

/// The connections that nobody uses.
#[derive(Debug)]
pub(super) struct Pool {
    idle: Mutex<IdleConnections>,
    places: Arc<Semaphore>,
    is_swept: AtomicBool,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            idle: Mutex::default(),
            places: Arc::new(Semaphore::new(MOST)),
            is_swept: AtomicBool::new(false),
        }
    }
}

/// The connections that nobody uses, by what they may be used for.
#[derive(Debug, Default)]
struct IdleConnections {
    by_key: HashMap<PoolKey, Vec<Idle>>,
    /// How many they are.
    count: usize,
    /// The latest generation of the policy that one was put back for.
    generation: u64,
}

impl IdleConnections {
    /// Keeps those that `is_wanted`.
    fn retain(&mut self, mut is_wanted: impl FnMut(&PoolKey, &Idle) -> bool) {
        self.by_key.retain(|key, waiting| {
            waiting.retain(|one| is_wanted(key, one));
            !waiting.is_empty()
        });
        self.count = self.by_key.values().map(Vec::len).sum();
    }
}

#[derive(Debug)]
struct Idle {
    live: Live,
    until: Instant,
}

/// An open connection and its place among all.
#[derive(Debug)]
struct Live {
    sender: SendRequest<RequestBody>,
    /// `None` if a parent has chosen it.
    address: Option<SocketAddr>,
    /// Given back when the connection closes.
    _place: OwnedSemaphorePermit,
}

/// A connection in use. Dropped without [`Self::release`], it closes.
#[derive(Debug)]
pub(super) struct Connection {
    live: Live,
    key: PoolKey,
    pool: Arc<Pool>,
}

impl Pool {
    /// Returns an empty pool that shares the limit on connections.
    #[cfg(feature = "inspect")]
    pub(super) fn apart(&self) -> Self {
        // It ends with the client, so nothing sweeps it.
        let is_swept = AtomicBool::new(true);
        Self { places: self.places.clone(), is_swept, idle: Mutex::default() }
    }

    /// Waits for a place; `None` when the deadline comes first.
    pub(super) async fn place(pool: &Arc<Self>, by: Instant) -> Option<OwnedSemaphorePermit> {
        let waiting = pool.places.clone().acquire_owned();
        timeout_at(by, waiting).await.ok().and_then(Result::ok)
    }

    /// Takes an open connection.
    pub(super) fn take(self: &Arc<Self>, key: &PoolKey) -> Option<Connection> {
        let now = Instant::now();
        let mut idle = self.lock();
        let IdleConnections { by_key, count, .. } = &mut *idle;
        let waiting = by_key.get_mut(key)?;
        let found = loop {
            let one = waiting.pop()?;
            *count = count.saturating_sub(1);
            if one.until > now && one.live.sender.is_ready() {
                break one.live;
            }
        };
        Some(Connection { live: found, key: key.clone(), pool: self.clone() })
    }

    fn put(self: &Arc<Self>, key: PoolKey, live: Live) {
        let mut idle = self.lock();
        if idle.generation < key.generation {
            // A reload has made the others useless.
            idle.generation = key.generation;
            idle.retain(|one, _| one.generation >= key.generation);
        }
        if idle.count < MOST_IDLE && idle.generation == key.generation {
            let waiting = idle.by_key.entry(key).or_default();
            if waiting.len() < MOST_IDLE_PER_HOST {
                waiting.push(Idle { live, until: Instant::now() + IDLE });
                idle.count += 1;
            }
        }
        drop(idle);
        if !self.is_swept.swap(true, Ordering::AcqRel) {
            tokio::spawn(self.clone().sweep());
        }
    }

    /// Closes what nobody has used for long; ends when nothing is left.
    async fn sweep(self: Arc<Self>) {
        loop {
            sleep(SWEEP).await;
            let now = Instant::now();
            let mut idle = self.lock();
            idle.retain(|_, one| one.until > now && !one.live.sender.is_closed());
            if idle.count == 0 {
                self.is_swept.store(false, Ordering::Release);
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, IdleConnections> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// Begins HTTP on a connection.
    pub(super) async fn open(
        stream: TlsStream<BufReader<Upstream>>,
        pool: &Arc<Pool>,
        key: PoolKey,
        address: Option<SocketAddr>,
        place: OwnedSemaphorePermit,
    ) -> Result<Self, hyper::Error> {
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(LARGEST_BUFFER)
            .max_headers(MOST_HEADERS)
            .handshake(TokioIo::new(FilledStream::new(stream)))
            .await?;
        // It ends with the sender, or with the body that is still to come.
        tokio::spawn(async move { drop(driver.await) });
        Ok(Self { live: Live { sender, address, _place: place }, key, pool: pool.clone() })
    }

    /// Returns the server's address. `None` if a parent proxy has chosen it.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.live.address
    }

    /// Sends a request; returns when the head of the answer has come.
    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        self.live.sender.send_request(request).await
    }

    /// Gives the connection back, once its answer has been read to the end.
    pub(super) fn release(self) {
        let Self { mut live, key, pool } = self;
        if live.sender.is_ready() {
            pool.put(key, live);
            return;
        }
        tokio::spawn(async move {
            if let Ok(Ok(())) = timeout(READY, live.sender.ready()).await {
                pool.put(key, live);
            }
        });
    }
}
