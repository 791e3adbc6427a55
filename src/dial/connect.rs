//! Connects to one of a permit's addresses: Happy Eyeballs (RFC 8305) over what was vetted.
//!
//! It looks nothing up, and knows no address but the permit's. An address that accepts at once costs
//! one connection and one timer, and no task.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::shortage::Shortage;
use crate::policy::{Cause, Failure, ParentPermit, Permit, Side};

/// How long an attempt is alone before the next begins (RFC 8305 §5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// At most this many attempts are under way at once; then the oldest, after two seconds, is given up.
/// It bounds the descriptors that one session takes, however many addresses its name has.
const MOST_AT_ONCE: usize = 8;

/// Connects, IPv6 first and the families in turn; the first that accepts wins, and the sockets of
/// the others are closed.
///
/// # Errors
/// `connect-timeout` when the deadline comes first. When all attempts have failed before it, what
/// weighs most: `local-ports` or `internal` if the gate lacked ports, descriptors or memory, since
/// the outcome might have been another; `connect-refused` where any was refused, since somebody was there;
/// `connect-timeout` where any was given up; `connect-unreachable`.
pub(super) async fn connect(
    permit: &Permit,
    by: Instant,
) -> Result<(TcpStream, SocketAddr), Failure> {
    connect_any(permit.addresses(), by).await
}

/// Connects to a parent proxy.
///
/// # Errors
/// As [`connect`].
pub(super) async fn connect_parent(
    permit: &ParentPermit,
    by: Instant,
) -> Result<(TcpStream, SocketAddr), Failure> {
    connect_any(permit.addresses(), by).await
}

async fn connect_any(
    addresses: &[SocketAddr],
    by: Instant,
) -> Result<(TcpStream, SocketAddr), Failure> {
    match addresses {
        // The common case needs no queue.
        [address] => {
            let ended = timeout_at(by, attempt(*address)).await;
            let ended = ended.map_err(|_| upstream(Cause::ConnectTimeout))?;
            Ok((ended.map_err(|error| failure(&[error]))?, *address))
        }
        addresses => race(interleaved(addresses), by, attempt).await,
    }
}

/// Connects to one of a permit's addresses, and no other.
///
/// # Errors
/// As [`connect`].
pub async fn connect_to(
    permit: &Permit,
    address: SocketAddr,
    by: Instant,
) -> Result<TcpStream, Failure> {
    // Nothing leaves past a parent.
    let has_parent = permit.allowed().route().parent().is_some();
    if has_parent || !permit.addresses().contains(&address) {
        return Err(Failure { side: Side::Gate, cause: Cause::Internal });
    }
    let ended = timeout_at(by, attempt(address)).await;
    let ended = ended.map_err(|_| upstream(Cause::ConnectTimeout))?;
    ended.map_err(|error| failure(&[error]))
}

/// Connects to one address.
async fn attempt(address: SocketAddr) -> io::Result<TcpStream> {
    let connected = TcpStream::connect(address).await;
    let stream = connected.map_err(|error| Shortage::explain(error, address))?;
    // What passes is complete as it comes. A socket that refuses the option is served without it.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// The families in turn, IPv6 first, each in the resolver's order (RFC 8305 §4).
pub(super) fn interleaved(addresses: &[SocketAddr]) -> VecDeque<SocketAddr> {
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

struct Attempt<F> {
    address: SocketAddr,
    ending: Pin<Box<F>>,
}

/// Runs attempts, each a delay after the one before or as soon as one has failed.
async fn race<S, F>(
    mut waiting: VecDeque<SocketAddr>,
    by: Instant,
    attempt: impl Fn(SocketAddr) -> F,
) -> Result<(S, SocketAddr), Failure>
where
    F: Future<Output = io::Result<S>>,
{
    let mut errors = Vec::new();
    let mut running: Vec<Attempt<F>> = Vec::new();
    let mut timer = pin!(sleep_until(by));
    loop {
        if let Some(address) = waiting.pop_front() {
            if running.len() == MOST_AT_ONCE {
                running.remove(0);
                errors.push(io::ErrorKind::TimedOut.into());
            }
            running.push(Attempt { address, ending: Box::pin(attempt(address)) });
        }
        if running.is_empty() {
            return Err(failure(&errors));
        }
        let next = if waiting.is_empty() { by } else { by.min(Instant::now() + ATTEMPT_DELAY) };
        timer.as_mut().reset(next);
        tokio::select! {
            biased;
            (address, ended) = first_of(&mut running) => match ended {
                Ok(stream) => return Ok((stream, address)),
                Err(error) => errors.push(error),
            },
            () = &mut timer => {
                if next == by {
                    return Err(upstream(Cause::ConnectTimeout));
                }
            }
        }
    }
}

/// The first attempt that ends, taken from those that run.
async fn first_of<S, F>(running: &mut Vec<Attempt<F>>) -> (SocketAddr, io::Result<S>)
where
    F: Future<Output = io::Result<S>>,
{
    poll_fn(|context| {
        let ended = running.iter_mut().enumerate().find_map(|(index, attempt)| {
            match attempt.ending.as_mut().poll(context) {
                Poll::Ready(ended) => Some((index, ended)),
                Poll::Pending => None,
            }
        });
        let Some((index, ended)) = ended else { return Poll::Pending };
        Poll::Ready((running.remove(index).address, ended))
    })
    .await
}

fn upstream(cause: Cause) -> Failure {
    Failure { side: Side::Upstream, cause }
}

/// What all attempts together say.
fn failure(errors: &[io::Error]) -> Failure {
    let any = |kind| errors.iter().any(|error| error.kind() == kind);
    let shortages: Vec<_> = errors.iter().filter_map(Shortage::of).collect();
    if shortages.contains(&Shortage::Ports) {
        Failure { side: Side::Gate, cause: Cause::LocalPorts }
    } else if !shortages.is_empty() {
        Failure { side: Side::Gate, cause: Cause::Internal }
    } else if any(io::ErrorKind::ConnectionRefused) {
        upstream(Cause::ConnectRefused)
    } else if any(io::ErrorKind::TimedOut) {
        upstream(Cause::ConnectTimeout)
    } else {
        upstream(Cause::ConnectUnreachable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;
    use std::cell::{Cell, RefCell};

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn addresses(ports: &[u16]) -> VecDeque<SocketAddr> {
        ports.iter().map(|port| SocketAddr::from(([127, 0, 0, 1], *port))).collect()
    }

    fn in_ten_seconds() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn families_take_turns() {
        let found = ["1.1.1.1:1", "1.1.1.2:1", "[2::1]:1", "1.1.1.3:1"].map(address);
        let expected = ["[2::1]:1", "1.1.1.1:1", "1.1.1.2:1", "1.1.1.3:1"].map(address);
        assert_eq!(interleaved(&found), expected);
    }

    /// Attempts that end as the port says: 1 accepts, 2 refuses, 3 never ends, 4 is unreachable,
    /// 5 finds no descriptor, 6 accepts after two seconds, 7 finds no local port.
    async fn attempt(address: SocketAddr) -> io::Result<SocketAddr> {
        match address.port() {
            1 => Ok(address),
            2 => Err(io::ErrorKind::ConnectionRefused.into()),
            3 => std::future::pending().await,
            4 => Err(io::ErrorKind::NetworkUnreachable.into()),
            5 => Err(Errno::MFILE.into()),
            7 => Err(io::Error::other(Shortage::Ports)),
            _ => {
                tokio::time::sleep(Duration::from_secs(2)).await;
                Ok(address)
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_follow_one_another() {
        let cases: &[(&[u16], Result<u16, Cause>)] = &[
            (&[1], Ok(1)),
            (&[2], Err(Cause::ConnectRefused)),
            (&[2, 1], Ok(1)),
            (&[3, 1], Ok(1)),
            (&[6, 1], Ok(1)),
            (&[6, 3, 3], Ok(6)),
            (&[3, 2, 1], Ok(1)),
            (&[3, 3, 3, 4, 1], Ok(1)),
            (&[4, 4], Err(Cause::ConnectUnreachable)),
            (&[4, 2], Err(Cause::ConnectRefused)),
            (&[3], Err(Cause::ConnectTimeout)),
            (&[2, 3], Err(Cause::ConnectTimeout)),
            (&[2, 5, 4], Err(Cause::Internal)),
            (&[5, 1], Ok(1)),
            (&[2, 7, 5], Err(Cause::LocalPorts)),
            (&[7, 1], Ok(1)),
            (&[], Err(Cause::ConnectUnreachable)),
        ];
        for (ports, expected) in cases {
            let ended = race(addresses(ports), in_ten_seconds(), attempt).await;
            let ended = ended.map(|(_, address)| address.port()).map_err(|failure| failure.cause);
            assert_eq!(ended, *expected, "{ports:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_begin_when_rfc_8305_says() {
        let cases: &[(&[u16], &[u64])] = &[
            (&[3, 3, 3, 1], &[0, 250, 500, 750]),
            (&[2, 4, 1], &[0, 0, 0]),
            (&[3, 2, 3, 1], &[0, 250, 250, 500]),
            (&[1, 1, 1], &[0]),
        ];
        for (ports, expected) in cases {
            let start = Instant::now();
            let begun = RefCell::new(Vec::new());
            let connect = |address| {
                begun.borrow_mut().push(start.elapsed().as_millis() as u64);
                attempt(address)
            };
            race(addresses(ports), in_ten_seconds(), connect).await.unwrap();
            assert_eq!(begun.into_inner(), *expected, "{ports:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn few_run_at_once_and_no_loser_outlives_the_race() {
        struct Socket<'a>(&'a Cell<usize>);
        impl Drop for Socket<'_> {
            fn drop(&mut self) {
                self.0.set(self.0.get() - 1);
            }
        }
        let (open, most) = (Cell::new(0), Cell::new(0));
        let attempt = |address: SocketAddr| {
            open.set(open.get() + 1);
            most.set(most.get().max(open.get()));
            let socket = Socket(&open);
            async move {
                attempt(address).await?;
                Ok(socket)
            }
        };
        let dead = [3; 30];
        let (winner, _) =
            race(addresses(&[&dead[..], &[1]].concat()), in_ten_seconds(), attempt).await.unwrap();
        assert_eq!((open.get(), most.get()), (1, MOST_AT_ONCE));
        drop(winner);
        let ended = race(addresses(&[3; 64]), in_ten_seconds(), attempt).await;
        assert_eq!(ended.err().map(|failure| failure.cause), Some(Cause::ConnectTimeout));
        assert_eq!(open.get(), 0);
    }
}
