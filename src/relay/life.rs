//! The life of a tunnel after its handshake: what ends it beside its two directions, and the one
//! timer for all that has its time.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::ending::idle_for_too_long;
use super::ends::TunnelTerms;
use super::meter::{Direction, Traffic};
use super::socket;
use super::stall::{self, StallLook, StallWatch, Stallable};
use crate::limits::Stalls;
use crate::policy::{Ending, Stop};

/// Age at which a tunnel counts as long-lived. Most end before, and do not need
/// [`socket::keep_alive`].
const GROWN: Duration = Duration::from_secs(30);

/// The parameters of a tunnel, except its two sides.
pub(super) struct TunnelContext<'a, S> {
    /// Counts delivered bytes.
    pub(super) traffic: &'a Traffic,
    /// Its timeouts and its client.
    pub(super) terms: &'a TunnelTerms,
    /// Registers it while a side does not read.
    pub(super) stalls: &'a Arc<Stalls>,
    /// Ends the tunnel immediately.
    pub(super) stop: Pin<&'a mut S>,
}

/// Both directions of a tunnel.
pub(super) trait BothWays: Stallable {
    /// Moves all available bytes in both directions.
    fn poll(&mut self, context: &mut Context<'_>, traffic: &Traffic) -> Poll<Result<Ending, Stop>>;
}

impl<S: Future<Output = Stop>> TunnelContext<'_, S> {
    /// Polls `ways` until they, the stop or a timeout end the tunnel.
    ///
    /// Not `async fn`, here and below, because that would store its arguments twice.
    pub(super) fn until_over(
        self,
        mut ways: impl BothWays,
    ) -> impl Future<Output = Result<Ending, Stop>> {
        let Self { traffic, terms, stalls, mut stop } = self;
        let mut clock = Clock::new(traffic, terms, stalls);
        async move {
            // Set when the timer fires, not with every byte.
            let mut timer = pin!(sleep_until(clock.next()));
            poll_fn(|context| {
                if let Poll::Ready(stop) = stop.as_mut().poll(context) {
                    return Poll::Ready(Err(stop));
                }
                if let Poll::Ready(over) = ways.poll(context, clock.traffic) {
                    return Poll::Ready(over);
                }
                if let Some(sooner) = clock.after_turn(&ways)
                    && sooner < timer.deadline()
                {
                    timer.as_mut().reset(sooner);
                }
                while timer.as_mut().poll(context).is_ready() {
                    match clock.ring(&mut ways) {
                        Ok(next) => timer.as_mut().reset(next),
                        Err(stop) => return Poll::Ready(Err(stop)),
                    }
                }
                Poll::Pending
            })
            .await
        }
    }
}

/// What a tunnel has to do at which time. It has one timer.
struct Clock<'a> {
    traffic: &'a Traffic,
    terms: &'a TunnelTerms,
    stalls: &'a Arc<Stalls>,
    /// The bytes moved, and when the last of them were.
    moved: u64,
    last: Instant,
    check: Check,
    stall: Option<Box<StallWatch>>,
}

/// When to look whether bytes wait unread though no direction is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// Then; the tunnel becomes long-lived.
    First(Instant),
    /// Then.
    Again(Instant),
    /// Not before bytes move.
    Never,
}

impl<'a> Clock<'a> {
    fn new(traffic: &'a Traffic, terms: &'a TunnelTerms, stalls: &'a Arc<Stalls>) -> Self {
        let (moved, last) = (traffic.total(), Instant::now());
        let check = Check::First(last + GROWN);
        Self { traffic, terms, stalls, moved, last, check, stall: None }
    }

    /// Returns when the timer must ring.
    fn next(&self) -> Instant {
        let idle = self.last + self.terms.idle;
        let check = match self.check {
            Check::First(at) | Check::Again(at) => at,
            Check::Never => idle,
        };
        let look = self.stall.as_ref().map_or(idle, |stall| stall.next);
        idle.min(check).min(look)
    }

    /// Notes what a turn has moved, and starts to watch a direction that is full. Returns when
    /// something new is due.
    fn after_turn(&mut self, ways: &impl Stallable) -> Option<Instant> {
        let total = self.traffic.total();
        let mut sooner = None;
        let has_moved = total != self.moved;
        if has_moved {
            self.moved = total;
            self.last = Instant::now();
            if self.check == Check::Never {
                let at = self.last + GROWN;
                self.check = Check::Again(at);
                sooner = Some(at);
            }
        }
        if self.stall.is_none()
            && let Some(direction) = stall::must_watch(ways, has_moved)
        {
            let stall = StallWatch::begin(ways, self.traffic, direction, Instant::now());
            sooner = Some(self.stall.insert(stall).next);
        }
        sooner
    }

    /// Does what is due. Returns when the timer must ring again.
    fn ring(&mut self, ways: &mut impl BothWays) -> Result<Instant, Stop> {
        let now = Instant::now();
        if self.last + self.terms.idle <= now {
            return Err(idle_for_too_long());
        }
        if let Check::First(at) | Check::Again(at) = self.check
            && at <= now
        {
            if matches!(self.check, Check::First(_)) {
                socket::keep_alive(ways.sockets().1);
            }
            // Bytes that moved lately may wait for a client that does not read them.
            let is_quiet = now.duration_since(self.last) >= GROWN / 2;
            self.check = if is_quiet { Check::Never } else { Check::Again(now + GROWN) };
            if is_quiet && self.stall.is_none() && stall::has_unread(ways) {
                let direction = Direction::Down;
                self.stall = Some(StallWatch::begin(ways, self.traffic, direction, now));
            }
        }
        if let Some(stall) = &mut self.stall
            && stall.next <= now
            && stall.look(ways, self.traffic, (self.terms, self.stalls), now)? == StallLook::Over
        {
            self.stall = None;
        }
        Ok(self.next())
    }
}
