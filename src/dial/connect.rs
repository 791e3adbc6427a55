//! Connects to one of a permit's addresses: Happy Eyeballs (RFC 8305) over what was vetted.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::policy::{Cause, Failure, Permit, Side};

/// How long an attempt is alone before the next begins (RFC 8305 §5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Connects, IPv6 first and the families in turn; the first that accepts wins.
///
/// # Errors
/// `connect-timeout` when the deadline comes first; else what most attempts' ends say:
/// `connect-refused` where any was refused, `connect-unreachable` otherwise; `internal` where the
/// gate has no descriptor left.
pub async fn connect(permit: &Permit, by: Instant) -> Result<(TcpStream, SocketAddr), Failure> {
    let addresses = interleaved(permit.addresses());
    let connected = timeout_at(by, race(addresses, TcpStream::connect)).await;
    let (stream, address) = connected.map_err(|_| upstream(Cause::ConnectTimeout))??;
    // A socket that refuses the option is served without it.
    let _ = stream.set_nodelay(true);
    Ok((stream, address))
}

/// The families in turn, IPv6 first, each in the resolver's order (RFC 8305 §4).
fn interleaved(addresses: &[SocketAddr]) -> VecDeque<SocketAddr> {
    let mut v6 = addresses.iter().copied().filter(SocketAddr::is_ipv6);
    let mut v4 = addresses.iter().copied().filter(SocketAddr::is_ipv4);
    let mut turns = VecDeque::with_capacity(addresses.len());
    loop {
        let pair = [v6.next(), v4.next()];
        if pair == [None, None] {
            return turns;
        }
        turns.extend(pair.into_iter().flatten());
    }
}

type Attempt<S> = Pin<Box<dyn Future<Output = io::Result<S>> + Send>>;

/// Runs attempts, each a delay after the one before or as soon as that one has failed.
async fn race<S, F>(
    mut waiting: VecDeque<SocketAddr>,
    attempt: impl Fn(SocketAddr) -> F,
) -> Result<(S, SocketAddr), Failure>
where
    F: Future<Output = io::Result<S>> + Send + 'static,
{
    let mut errors = Vec::new();
    // One address is the common case: no box, no timer.
    if waiting.len() == 1
        && let Some(address) = waiting.pop_front()
    {
        return match attempt(address).await {
            Ok(stream) => Ok((stream, address)),
            Err(error) => Err(failure(&[error])),
        };
    }
    let mut running: Vec<(SocketAddr, Attempt<S>)> = Vec::new();
    loop {
        if let Some(address) = waiting.pop_front() {
            running.push((address, Box::pin(attempt(address))));
        }
        if running.is_empty() {
            return Err(failure(&errors));
        }
        let next = Instant::now() + ATTEMPT_DELAY;
        tokio::select! {
            biased;
            (index, ended) = first_of(&mut running) => {
                let (address, _) = running.swap_remove(index);
                match ended {
                    Ok(stream) => return Ok((stream, address)),
                    Err(error) => errors.push(error),
                }
            }
            () = sleep_until(next), if !waiting.is_empty() => {}
        }
    }
}

/// The first attempt that ends, by its index.
async fn first_of<S>(running: &mut [(SocketAddr, Attempt<S>)]) -> (usize, io::Result<S>) {
    std::future::poll_fn(|context| {
        for (index, (_, attempt)) in running.iter_mut().enumerate() {
            if let std::task::Poll::Ready(ended) = attempt.as_mut().poll(context) {
                return std::task::Poll::Ready((index, ended));
            }
        }
        std::task::Poll::Pending
    })
    .await
}

/// What all attempts together say: refused before unreachable, since somebody was there.
fn failure(errors: &[io::Error]) -> Failure {
    use rustix::io::Errno;
    let any = |kind: &dyn Fn(&io::Error) -> bool| errors.iter().any(kind);
    let is = |error: &io::Error, errno: Errno| error.raw_os_error() == Some(errno.raw_os_error());
    if any(&|error| error.kind() == io::ErrorKind::ConnectionRefused) {
        upstream(Cause::ConnectRefused)
    } else if any(&|error| error.kind() == io::ErrorKind::TimedOut) {
        upstream(Cause::ConnectTimeout)
    } else if any(&|error| is(error, Errno::MFILE) || is(error, Errno::NFILE)) {
        Failure { side: Side::Gate, cause: Cause::Internal }
    } else {
        upstream(Cause::ConnectUnreachable)
    }
}

fn upstream(cause: Cause) -> Failure {
    Failure { side: Side::Upstream, cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn families_take_turns() {
        let found = ["1.1.1.1:1", "1.1.1.2:1", "[2::1]:1", "1.1.1.3:1"].map(address);
        let expected = ["[2::1]:1", "1.1.1.1:1", "1.1.1.2:1", "1.1.1.3:1"].map(address);
        assert_eq!(interleaved(&found), expected);
    }

    /// Attempts that end as the port says: 1 accepts, 2 refuses, 3 never ends, 4 is unreachable.
    async fn attempt(address: SocketAddr) -> io::Result<SocketAddr> {
        match address.port() {
            1 => Ok(address),
            2 => Err(io::ErrorKind::ConnectionRefused.into()),
            3 => std::future::pending().await,
            _ => Err(io::ErrorKind::NetworkUnreachable.into()),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_follow_one_another() {
        let cases: &[(&[u16], Result<u16, Cause>)] = &[
            (&[1], Ok(1)),
            (&[2], Err(Cause::ConnectRefused)),
            (&[2, 1], Ok(1)),
            (&[3, 1], Ok(1)),
            (&[3, 2, 1], Ok(1)),
            (&[3, 3, 3, 4, 1], Ok(1)),
            (&[4, 4], Err(Cause::ConnectUnreachable)),
            (&[4, 2], Err(Cause::ConnectRefused)),
        ];
        for (ports, expected) in cases {
            let waiting = ports.iter().map(|port| SocketAddr::from(([127, 0, 0, 1], *port)));
            let ended = race(waiting.collect(), attempt).await;
            let ended = ended.map(|(_, address)| address.port()).map_err(|failure| failure.cause);
            assert_eq!(ended, *expected, "{ports:?}");
        }
    }
}
