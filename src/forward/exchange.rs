//! One request to one host that the policy grants, and the head of its answer.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::Response;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use tokio::io::BufReader;
use tokio::time::{Instant, timeout_at};

use super::body::RequestBody;
use super::pool::{Connection, Pool, PoolKey};
use super::trouble::{LONGEST_ANSWER, Trouble, broken, late};
use crate::dial::{self, Caller, Dialler, TlsClients};
use crate::oci::Request;
use crate::policy::{
    Allowed, AllowedRequest, Cause, Denial, OwnAddresses, PolicySet, Reason, Target,
};

/// Bytes that are read of a registry's connection at once: four of the longest records of TLS 1.3 (RFC
/// 8446, 5.2), so that each read completes as many. TLS itself reads 4 KiB.
const READ_AHEAD: usize = 4 * (5 + 16 * 1024 + 1 + 16);

/// A request that is to be sent, and by which policy.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The policy that judged it.
    pub set: &'a PolicySet,
    /// The gate's own place in the network.
    pub own: &'a OwnAddresses,
    /// The right to send it.
    pub allowed: &'a AllowedRequest,
    /// What is asked.
    pub request: &'a Request,
    /// The client's headers, of which few are passed on.
    pub headers: &'a HeaderMap,
}

/// What goes to a server beside a body. It can be sent more than once.
#[derive(Debug)]
pub(super) struct Outgoing<'a> {
    pub(super) method: hyper::Method,
    pub(super) target: &'a str,
    pub(super) headers: Headers<'a>,
    /// Set whatever the headers are.
    pub(super) authorization: Option<HeaderValue>,
}

/// The headers of a request. They are made for each attempt, because few requests need a second one.
#[derive(Debug, Clone, Copy)]
pub(super) enum Headers<'a> {
    /// Those of a client's headers that this function keeps.
    Kept(fn(&HeaderMap) -> HeaderMap, &'a HeaderMap),
    /// The gate's own.
    Own(&'a HeaderMap),
}

impl Outgoing<'_> {
    fn with(&self, target: &Target, body: RequestBody) -> Option<hyper::Request<RequestBody>> {
        let host =
            if target.port == 443 { target.name.as_str().to_owned() } else { target.to_string() };
        let mut request = hyper::Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.target.parse().ok()?;
        *request.headers_mut() = match self.headers {
            Headers::Kept(kept, client) => kept(client),
            Headers::Own(headers) => headers.clone(),
        };
        let headers = request.headers_mut();
        headers.insert(header::HOST, HeaderValue::try_from(host).ok()?);
        if let Some(authorization) = &self.authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        Some(request)
    }
}

/// What a server has answered, its body still to come.
pub(super) struct Answered {
    pub(super) response: Response<Incoming>,
    pub(super) connection: Connection,
    /// How long the body may take where it is read whole.
    timeout: Duration,
}

/// A connection to the server of an inspected tunnel, without TLS yet.
#[derive(Debug)]
pub struct FirstConnection {
    /// The server.
    pub target: Target,
    /// The generation of the policy that permitted it.
    pub generation: u64,
    /// What was dialled.
    pub connection: dial::Connection,
}

/// Reaches hosts.
#[derive(Debug)]
pub(super) struct Exchanger {
    dialler: Arc<Dialler>,
    tls: Arc<TlsClients>,
    pool: Arc<Pool>,
    /// Used before another is dialled.
    first: Mutex<Option<FirstConnection>>,
}

impl Exchanger {
    pub(super) fn new(dialler: Arc<Dialler>, tls: Arc<TlsClients>) -> Self {
        Self { dialler, tls, pool: Arc::default(), first: Mutex::default() }
    }

    /// Returns one for a single client, whose connections no other client uses.
    #[cfg(feature = "inspect")]
    pub(super) fn for_client(&self, first: FirstConnection) -> Self {
        Self {
            dialler: self.dialler.clone(),
            tls: self.tls.clone(),
            pool: Arc::new(self.pool.apart()),
            first: Mutex::new(Some(first)),
        }
    }

    /// Sends a request to a host, on a connection that is open already or on a new one.
    pub(super) async fn exchange(
        &self,
        asked: Asked<'_>,
        allowed: &Allowed,
        outgoing: &Outgoing<'_>,
        body: RequestBody,
    ) -> Result<Answered, Trouble> {
        let target = allowed.target();
        let request = |body: RequestBody| {
            let detail = "the request cannot be written as HTTP";
            let built = outgoing.with(target, body);
            built.ok_or_else(|| Trouble::failed(Cause::UpstreamMalformed, detail))
        };
        let timeout = asked.set.limits().idle_timeout.min(LONGEST_ANSWER);
        let by = Instant::now() + timeout;
        let key = PoolKey {
            registry: asked.allowed.grant().registry.clone(),
            target: target.clone(),
            generation: asked.set.generation(),
            thread: thread::current().id(),
        };
        // The server may just have closed a connection that is open: then a new one is tried.
        if let Some(again) = body.again()
            && let Some(mut connection) = self.pool.take(&key)
            && let Ok(Ok(response)) = timeout_at(by, connection.send(request(again)?)).await
        {
            return Ok(Answered { response, connection, timeout });
        }
        let is_streamed = body.again().is_none();
        let request = request(body)?;
        let mut connection = self.open(asked, allowed, key).await?;
        let upstream = connection.address();
        let sending = connection.send(request);
        // A body that still comes has its own limit on the time between two parts.
        let sent = match is_streamed {
            true => Ok(sending.await),
            false => timeout_at(by, sending).await,
        };
        match sent {
            Ok(Ok(response)) => Ok(Answered { response, connection, timeout }),
            Ok(Err(error)) => Err(broken(&error).at(upstream)),
            Err(_) => Err(late().at(upstream)),
        }
    }

    /// Takes the connection that the client's tunnel was dialled with, if it may be used still.
    fn first(&self, key: &PoolKey) -> Option<dial::Connection> {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let fits = first.target == key.target && first.generation == key.generation;
        fits.then_some(first.connection)
    }

    /// Looks an allowed host up, dials one of its vetted addresses and makes the TLS handshake.
    async fn open(
        &self,
        asked: Asked<'_>,
        allowed: &Allowed,
        key: PoolKey,
    ) -> Result<Connection, Trouble> {
        let by = Instant::now() + asked.set.limits().dial_timeout;
        let place = Pool::place(&self.pool, by).await.ok_or_else(|| {
            let remedy = "too many connections to registries";
            Denial::with_remedy(Reason::SessionLimit, remedy)
        })?;
        let reached = match self.first(&key) {
            Some(first) => first,
            None => {
                let by_policy = (asked.set, asked.own);
                self.dialler.reach(by_policy, allowed, &Caller::default(), by).await?
            }
        };
        let (socket, address) = (reached.upstream, reached.address);
        let registry = (&key.registry, key.generation);
        let ca = &asked.allowed.grant().ca;
        let name = &allowed.target().name;
        let socket = BufReader::with_capacity(READ_AHEAD, socket);
        let stream = self.tls.handshake(socket, name, registry, ca, by).await;
        let stream = stream.map_err(|fault| {
            let issuer = fault.rejected.map(|seen| format!("; its issuer is {}", seen.issuer));
            let detail = Some(fault.detail + &issuer.unwrap_or_default());
            Trouble { stop: fault.failure.into(), detail, upstream: address }
        })?;
        let opened =
            timeout_at(by, Connection::open(stream, &self.pool, key, address, place)).await;
        match opened {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(broken(&error).at(address)),
            Err(_) => Err(late().at(address)),
        }
    }
}

/// Reads a body whole, and gives its connection back.
pub(super) async fn whole(answered: Answered, most: usize) -> Result<Bytes, Trouble> {
    let Answered { response, connection, timeout } = answered;
    let by = Instant::now() + timeout;
    let mut body = response.into_body();
    // A small body comes in one piece, which needs no copy.
    let (mut first, mut all) = (Bytes::new(), BytesMut::new());
    loop {
        let frame = match timeout_at(by, body.frame()).await {
            Err(_) => return Err(late()),
            Ok(None) => break,
            Ok(Some(Err(error))) => return Err(broken(&error)),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + all.len() + data.len() > most {
            let detail = format!("the answer is larger than {most} bytes");
            return Err(Trouble::failed(Cause::UpstreamMalformed, detail));
        }
        if first.is_empty() && all.is_empty() {
            first = data;
            continue;
        }
        all.extend_from_slice(&std::mem::take(&mut first));
        all.extend_from_slice(&data);
    }
    connection.release();
    Ok(if all.is_empty() { first } else { all.freeze() })
}
