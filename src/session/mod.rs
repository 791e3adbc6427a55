//! The life of one connection, from accept to its record. Each step has its own file.
//!
//! ```text
//! identify -> read the request -> admit -> judge the name -> resolve -> judge the addresses -> dial
//!          -> answer 200 -> read the ClientHello -> judge it -> relay -> record
//! ```
//!
//! Each step requires the permission of the one before: `Allowed` to resolve a name, `Permit` to
//! dial, `Cleared` to relay. A session that ends before the relay returns a `Refusal`: it is
//! recorded first, then the client is notified, by an HTTP answer before `200` and by a TLS alert
//! after it. On a transparent listener the ClientHello comes first and names the target, and each
//! refusal is an alert.

pub mod future_size;
mod gate;
mod identified;
mod identify;
#[cfg(feature = "inspect")]
mod intercepted;
mod judge;
mod refuse;
mod relay;
mod request;
mod state;

use std::os::fd::OwnedFd;
#[cfg(feature = "inspect")]
use std::pin::Pin;

use tokio::time::Instant;

use crate::dial::Connection;
use crate::policy::Stop;
use future_size::boxed;
use judge::Dialled;
use refuse::{Refusal, needed, session_limit};
use request::{Request, TunnelStart};
use state::{Session, Tunnel};

pub use gate::Gate;
pub use identified::{Identified, identify};
#[cfg(feature = "inspect")]
pub use intercepted::Intercepted;
pub use relay::{RevocationWatch, download_rates};
pub use state::{Admission, CertificateWatch, Incoming};

/// Serves one connection until it ends, in the runtime that polls the future. `inspect` serves a tunnel
/// whose requests are to be judged.
///
/// Unboxes `incoming` on the thread that serves it, because freeing memory of another thread is
/// slow.
#[cfg(feature = "inspect")]
pub async fn run(
    incoming: Box<Incoming>,
    inspect: impl FnOnce(Box<Intercepted>) -> Pin<Box<dyn Future<Output = ()> + Send>>,
) {
    let (mut session, socket) = Session::open(*incoming);
    let established = boxed::<ESTABLISH, _>(session.establish(socket)).await;
    match established {
        Ok(tunnel) if tunnel.cleared.permit().allowed().inspect().is_some() => {
            inspect(session.intercept(tunnel)).await;
        }
        Ok(tunnel) => boxed::<RELAY, _>(session.relay(tunnel)).await,
        Err(refusal) => boxed::<REFUSE, _>(session.refuse(refusal)).await,
    }
}

/// Serves one connection until it ends, in the runtime that polls the future.
///
/// Unboxes `incoming` on the thread that serves it, because freeing memory of another thread is
/// slow.
#[cfg(not(feature = "inspect"))]
pub async fn run(incoming: Box<Incoming>) {
    let (mut session, socket) = Session::open(*incoming);
    let established = boxed::<ESTABLISH, _>(session.establish(socket)).await;
    match established {
        Ok(tunnel) => boxed::<RELAY, _>(session.relay(tunnel)).await,
        Err(refusal) => boxed::<REFUSE, _>(session.refuse(refusal)).await,
    }
}

/// Maximum size of each phase, in bytes.
const ESTABLISH: usize = 2304;
const RELAY: usize = 1728;
const REFUSE: usize = 1024;

impl Session {
    /// From the first byte to a tunnel that can be relayed.
    async fn establish(&mut self, socket: OwnedFd) -> Result<Box<Tunnel>, Box<Refusal>> {
        let client = self.identify(socket).await?; // PROXY header, TLS, client certificate
        let mut request = self.read_request(client).await?; // CONNECT head, or the first ClientHello
        let Dialled { permit, mut connection } = match self.reach(&mut request).await {
            Ok(dialled) => dialled,
            Err(stop) => return Err(request.refuse(stop)),
        };
        let TunnelStart { client, hello, cleared } = self.open_tunnel(request, permit).await?;
        if let Err(failure) = connection.check_parent().await {
            return Err(Refusal::alert(client, Stop::from(failure)));
        }
        let Connection { upstream, address, .. } = connection;
        Ok(Box::new(Tunnel { client, upstream, address, cleared, hello }))
    }

    /// From a request to its upstream.
    async fn reach(&mut self, request: &mut Request) -> Result<Dialled, Stop> {
        self.admit(request)?; // limits
        let needed = needed(self.setup.as_ref());
        tokio::select! {
            biased;
            dialled = self.judge_and_dial(request) => dialled,
            () = needed => Err(session_limit()),
        }
    }

    /// From an admitted request to its upstream.
    async fn judge_and_dial(&mut self, request: &mut Request) -> Result<Dialled, Stop> {
        let allowed = self.judge_name(request).await?; // user, client group, registry
        let deadline = Instant::now() + self.policy.limits().dial_timeout;
        let permit = match self.policy.leave_to_parent(&allowed) {
            Some(permit) => permit, // a parent proxy that is asked by name
            None => self.resolve(allowed, deadline).await?, // DNS, addresses
        };
        let dialled = self.dial(permit, request, deadline).await?; // directly, or through a parent
        self.verify(&dialled, request, deadline).await?; // the server's certificate, where it is wanted
        Ok(dialled)
    }
}
