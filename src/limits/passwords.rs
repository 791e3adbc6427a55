//! Verifies passwords: on separate threads, few at a time, and rate-limited for clients that guess.
//!
//! A correct password is cached until it has not been used for a while, so that the many tunnels of
//! a pull cost one hash. The cache holds a keyed digest of hash, user and password: a changed hash
//! gives another digest, and the cache reveals no passwords. Wrong passwords are charged to the
//! client address. Each address has few verifications at once, and addresses that have never sent a
//! correct password leave a worker to those that have, so that guessing does not delay other clients.
//!
//! Each correct password is cached twice. For the address that sent it, a hit costs nothing. For
//! all other addresses, each query is charged like a wrong password until one is correct.
//! Otherwise, a client could test guesses against another client's cached password without being
//! rate limited.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::token_bucket::TokenBucket;
use crate::policy::{Denial, Reason, User, Users, subscriber};

/// How long a cache entry lives after its last use.
const REMEMBERED: Duration = Duration::from_secs(300);

/// Maximum number of cache entries; each is a digest and a time.
const MOST_REMEMBERED: usize = 16_384;

/// Number of wrong passwords that an address can send at once, and the time until it can send
/// another.
const GUESSES: u32 = 10;
const GUESS: Duration = Duration::from_secs(2);

/// Maximum number of addresses with counters. Quiet addresses are removed first.
const SOURCES: usize = 65_536;

/// Maximum number of passwords of one address that are verified or waiting at once.
const TURNS: usize = 2;

/// The system has no random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system has no random numbers")]
pub struct NoRandomNumbers;

/// The user name and password that a client sent.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCredentials {
    user: Box<str>,
    password: Box<[u8]>,
}

impl ClientCredentials {
    /// A user and a password.
    #[must_use]
    pub fn new(user: &str, password: &[u8]) -> Self {
        Self { user: user.into(), password: password.into() }
    }

    /// Returns the user name, as sent.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Returns the password.
    #[must_use]
    pub fn expose_password(&self) -> &[u8] {
        &self.password
    }
}

impl fmt::Debug for ClientCredentials {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the name either: a client that confuses the fields sends the password as the name.
        out.write_str("Credentials(***)")
    }
}

/// Verifies passwords.
#[derive(Debug)]
pub struct Passwords {
    key: hmac::Key,
    remembered: Mutex<Remembered>,
    sources: Mutex<HashMap<IpAddr, Source>>,
    workers: Arc<Semaphore>,
    /// What addresses need too that have never sent a correct password. With a single worker, one of
    /// them at a time waits for it.
    strangers: Arc<Semaphore>,
    began: Instant,
}

/// Cached digests.
#[derive(Debug, Default)]
struct Remembered {
    /// When each expires.
    times: HashMap<[u8; DIGEST], Instant>,
    /// The same in order, and times that were renewed since: a few for each digest.
    order: VecDeque<(Instant, [u8; DIGEST])>,
}

impl Remembered {
    /// Adds or renews a digest.
    fn keep(&mut self, digest: [u8; DIGEST], now: Instant) {
        let until = now + REMEMBERED;
        if self.times.insert(digest, until) != Some(until) {
            self.order.push_back((until, digest));
        }
        while let Some((until, oldest)) = self.order.front().copied()
            && (until <= now || self.times.len() > MOST_REMEMBERED)
        {
            self.order.pop_front();
            if self.times.get(&oldest) == Some(&until) {
                self.times.remove(&oldest);
            }
        }
    }
}

/// Client addresses.
#[derive(Debug)]
struct Source {
    /// The remaining number of guesses.
    guesses: TokenBucket,
    turns: Arc<Semaphore>,
    /// Whether it has sent a correct password.
    is_known: bool,
}

impl Default for Source {
    fn default() -> Self {
        let turns = Arc::new(Semaphore::new(TURNS));
        Self { guesses: TokenBucket::default(), turns, is_known: false }
    }
}

/// Length of a SHA-256 digest, in bytes.
const DIGEST: usize = 32;

impl Passwords {
    /// Creates a verifier with this number of threads.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn new(workers: usize) -> Result<Self, NoRandomNumbers> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        let workers = workers.max(1);
        Ok(Self {
            key: key.map_err(|_| NoRandomNumbers)?,
            remembered: Mutex::default(),
            sources: Mutex::default(),
            workers: Arc::new(Semaphore::new(workers)),
            strangers: Arc::new(Semaphore::new((workers - 1).max(1))),
            began: Instant::now(),
        })
    }

    /// Verifies what a client sent from an address.
    ///
    /// # Errors
    /// `credentials-required` if the password is wrong; `rate-limit` if the address guessed too
    /// often; `session-limit` if too many verifications wait or it timed out.
    pub async fn check(
        &self,
        users: &Users,
        credentials: ClientCredentials,
        from: IpAddr,
        by: Instant,
    ) -> Result<User, Denial> {
        let Some(challenge) = users.challenge(credentials.user()) else { return Err(wrong()) };
        let from = subscriber(from);
        let hash = challenge.hash().expose();
        let here = self.digest(hash, &credentials, Some(from));
        let anywhere = self.digest(hash, &credentials, None);
        if self.remembers(&here) {
            self.remember([here, anywhere]);
            return challenge.known().ok_or_else(wrong);
        }
        let busy =
            || Denial::with_remedy(Reason::SessionLimit, "too many passwords are being checked");
        let turn = acquire(&self.turns(from)?, by).await;
        let Some(_turn) = turn else { return Err(busy()) };
        // An earlier verification may have cached the same password.
        if self.remembers(&here) {
            return challenge.known().ok_or_else(wrong);
        }
        self.charge(from)?;
        if self.remembers(&anywhere) {
            self.prove(from);
            self.remember([here, anywhere]);
            return challenge.known().ok_or_else(wrong);
        }
        let Some(worker) = self.worker(from, by).await else {
            self.refund(from);
            return Err(busy());
        };
        let met = tokio::task::spawn_blocking(move || {
            let met = challenge.meet(credentials.expose_password());
            // Held until the work is done, even if the session no longer waits.
            drop(worker);
            met
        });
        let user = met.await.ok().flatten().ok_or_else(wrong)?;
        self.prove(from);
        self.remember([here, anywhere]);
        Ok(user)
    }

    /// Waits for a worker; `None` if it takes too long. Held until the work is done.
    async fn worker(
        &self,
        from: IpAddr,
        by: Instant,
    ) -> Option<(OwnedSemaphorePermit, Option<OwnedSemaphorePermit>)> {
        let stranger = match self.is_known(from) {
            true => None,
            false => Some(acquire(&self.strangers, by).await?),
        };
        Some((acquire(&self.workers, by).await?, stranger))
    }

    /// `from`: the address for which the entry counts; `None` for all addresses.
    fn digest(
        &self,
        hash: &str,
        credentials: &ClientCredentials,
        from: Option<IpAddr>,
    ) -> [u8; DIGEST] {
        let from = from.map(|address| match address {
            IpAddr::V4(four) => four.to_ipv6_mapped().octets(),
            IpAddr::V6(six) => six.octets(),
        });
        let from = from.as_ref().map_or(&[][..], |octets| octets);
        let (user, password) = (credentials.user().as_bytes(), credentials.expose_password());
        let mut signing = hmac::Context::with_key(&self.key);
        for part in [hash.as_bytes(), user, password, from] {
            // With its length, so that two different inputs never have the same encoding.
            signing.update(&part.len().to_be_bytes());
            signing.update(part);
        }
        let mut digest = [0; DIGEST];
        for (to, from) in digest.iter_mut().zip(signing.sign().as_ref()) {
            *to = *from;
        }
        digest
    }

    fn remembers(&self, digest: &[u8; DIGEST]) -> bool {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.times.get(digest).is_some_and(|until| *until > Instant::now())
    }

    fn remember(&self, digests: [[u8; DIGEST]; 2]) {
        let now = Instant::now();
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        for digest in digests {
            // Renewed in time, but not at each use.
            if remembered.times.get(&digest).is_none_or(|until| *until < now + REMEMBERED / 2) {
                remembered.keep(digest, now);
            }
        }
    }

    fn turns(&self, from: IpAddr) -> Result<Arc<Semaphore>, Denial> {
        let now = self.began.elapsed();
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if sources.len() >= SOURCES && !sources.contains_key(&from) {
            let is_busy = |source: &Source| {
                !source.guesses.is_full(now) || Arc::strong_count(&source.turns) > 1
            };
            sources.retain(|_, source| is_busy(source) || source.is_known);
            if sources.len() >= SOURCES {
                sources.retain(|_, source| is_busy(source));
            }
            if sources.len() >= SOURCES {
                // Too many addresses guess at once, so new addresses are rejected.
                return Err(slow_down(GUESS));
            }
        }
        Ok(sources.entry(from).or_default().turns.clone())
    }

    fn charge(&self, from: IpAddr) -> Result<(), Denial> {
        let now = self.began.elapsed();
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let guesses = &mut sources.entry(from).or_default().guesses;
        // The last guess can use the rest, but not overdraw it.
        match guesses.wait(now, GUESS * (GUESSES - 1)) {
            Some(wait) => Err(slow_down(wait)),
            None => {
                guesses.charge(now, GUESS);
                Ok(())
            }
        }
    }

    fn refund(&self, from: IpAddr) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(source) = sources.get_mut(&from) {
            source.guesses.refund(GUESS);
        }
    }

    /// Refunds a guess that was correct.
    fn prove(&self, from: IpAddr) {
        self.refund(from);
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.entry(from).or_default().is_known = true;
    }

    fn is_known(&self, from: IpAddr) -> bool {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.get(&from).is_some_and(|source| source.is_known)
    }
}

async fn acquire(from: &Arc<Semaphore>, by: Instant) -> Option<OwnedSemaphorePermit> {
    timeout_at(by, from.clone().acquire_owned()).await.ok()?.ok()
}

fn wrong() -> Denial {
    Denial::with_remedy(Reason::CredentialsRequired, "user or password is wrong")
}

fn slow_down(wait: Duration) -> Denial {
    let seconds = wait.as_secs() + 1;
    let remedy = format!("too many wrong passwords from here; wait {seconds} s");
    Denial::with_remedy(Reason::RateLimit, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::PasswordHash;

    fn users() -> Users {
        users_with(&["ci"])
    }

    fn users_with(names: &[&str]) -> Users {
        let mut users = Users::default();
        for name in names {
            let hash = PasswordHash::parse(&bcrypt::hash("secret", 4).unwrap()).unwrap();
            assert!(users.add(name, hash));
        }
        users
    }

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 7));

    async fn checked(
        passwords: &Passwords,
        users: &Users,
        (user, password): (&str, &str),
        from: IpAddr,
    ) -> Result<User, Denial> {
        let by = Instant::now() + Duration::from_secs(60);
        passwords.check(users, ClientCredentials::new(user, password.as_bytes()), from, by).await
    }

    fn guesses_left(passwords: &Passwords, from: IpAddr) -> u32 {
        (0..).take_while(|_| passwords.charge(from).is_ok()).count() as u32
    }

    #[tokio::test]
    async fn right_passwords_are_remembered_and_never_slowed_down() {
        let (passwords, users) = (Passwords::new(1).unwrap(), users());
        for _ in 0..100 {
            let user = checked(&passwords, &users, ("ci", "secret"), HERE).await.unwrap();
            assert_eq!(&*user.name, "ci");
        }
        assert_eq!(passwords.remembered.lock().unwrap().times.len(), 2);
        assert_eq!(guesses_left(&passwords, HERE), GUESSES);
        // Where nobody may guess any more, what was proved there is known.
        assert!(checked(&passwords, &users, ("ci", "secret"), HERE).await.is_ok());
        // Another hash (bcrypt salts each) is another password, even if it is the same word.
        let changed = self::users();
        assert_ne!(hash_of(&users), hash_of(&changed));
        let denial = checked(&passwords, &changed, ("ci", "secret"), HERE).await.unwrap_err();
        assert_eq!(denial.reason, Reason::RateLimit);
    }

    fn hash_of(users: &Users) -> String {
        users.challenge("ci").unwrap().hash().expose().to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn only_clients_that_guess_are_slowed_down() {
        let (passwords, users) = (Passwords::new(1).unwrap(), users());
        let mut reasons = Vec::new();
        for number in 0..GUESSES * 3 {
            let user = if number % 2 == 0 { "ci" } else { "stranger" };
            let wrong = checked(&passwords, &users, (user, "wrong"), HERE).await.unwrap_err();
            reasons.push(wrong.reason);
        }
        let (first, rest) = reasons.split_at(GUESSES as usize);
        assert!(first.iter().all(|reason| *reason == Reason::CredentialsRequired), "{reasons:?}");
        assert!(rest.iter().all(|reason| *reason == Reason::RateLimit), "{reasons:?}");
        let elsewhere = "10.0.0.8".parse().unwrap();
        assert!(checked(&passwords, &users, ("ci", "secret"), elsewhere).await.is_ok());
        tokio::time::advance(GUESS).await;
        assert_eq!(guesses_left(&passwords, HERE), 1);
        tokio::time::advance(GUESS * GUESSES * 2).await;
        assert_eq!(guesses_left(&passwords, HERE), GUESSES);
    }

    #[tokio::test(start_paused = true)]
    async fn who_guessed_too_often_learns_no_word_that_others_have_proved() {
        let (passwords, users) = (Passwords::new(1).unwrap(), users());
        let [there, yonder] = ["10.0.0.8", "10.0.0.9"].map(|text| text.parse().unwrap());
        for from in [there, yonder] {
            assert!(checked(&passwords, &users, ("ci", "secret"), from).await.is_ok());
        }
        for from in [HERE, there] {
            for _ in 0..GUESSES {
                let wrong = checked(&passwords, &users, ("ci", "wrong"), from).await.unwrap_err();
                assert_eq!(wrong.reason, Reason::CredentialsRequired);
            }
        }
        for word in ["wrong", "secret"] {
            let denial = checked(&passwords, &users, ("ci", word), HERE).await.unwrap_err();
            assert_eq!(denial.reason, Reason::RateLimit, "{word}");
        }
        // Somebody else at his address has proved it, and is not held up by him.
        assert!(checked(&passwords, &users, ("ci", "secret"), there).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_proved_anywhere_takes_no_worker() {
        let (passwords, users) = (Passwords::new(1).unwrap(), users());
        assert!(checked(&passwords, &users, ("ci", "secret"), HERE).await.is_ok());
        tokio::time::advance(REMEMBERED - GUESS).await;
        let _busy = passwords.workers.acquire().await.unwrap();
        let elsewhere = "10.0.0.8".parse().unwrap();
        assert!(checked(&passwords, &users, ("ci", "secret"), elsewhere).await.is_ok());
        assert!(checked(&passwords, &users, ("ci", "secret"), elsewhere).await.is_ok());
        tokio::time::advance(REMEMBERED).await;
        let denial = checked(&passwords, &users, ("ci", "secret"), elsewhere).await.unwrap_err();
        assert_eq!(denial.reason, Reason::SessionLimit, "it takes a worker, and none is free");
        assert_eq!(guesses_left(&passwords, elsewhere), GUESSES);
    }

    #[tokio::test(start_paused = true)]
    async fn a_password_in_use_is_not_forgotten() {
        let (passwords, users) = (Passwords::new(1).unwrap(), users());
        assert!(checked(&passwords, &users, ("ci", "secret"), HERE).await.is_ok());
        let _busy = passwords.workers.acquire().await.unwrap();
        for _ in 0..100 {
            tokio::time::advance(REMEMBERED * 3 / 4).await;
            assert!(checked(&passwords, &users, ("ci", "secret"), HERE).await.is_ok());
        }
        // What was proved anywhere is renewed with it, and only the last times are kept.
        let elsewhere = "10.0.0.8".parse().unwrap();
        assert!(checked(&passwords, &users, ("ci", "secret"), elsewhere).await.is_ok());
        assert!(passwords.remembered.lock().unwrap().order.len() <= 3 * 2);
    }

    /// Strangers guess from many addresses, with one worker and with more.
    #[tokio::test]
    async fn who_has_logged_in_before_does_not_wait_behind_strangers() {
        for workers in [1, 4] {
            let passwords = Arc::new(Passwords::new(workers).unwrap());
            let users = Arc::new(users_with(&["ci", "deploy"]));
            assert!(checked(&passwords, &users, ("ci", "secret"), HERE).await.is_ok());
            let busy = passwords.workers.acquire_many(workers as u32).await.unwrap();
            let done = Arc::new(Mutex::new(Vec::new()));
            let task = |user: &'static str, password: &'static str, from: IpAddr| {
                let (passwords, users) = (passwords.clone(), users.clone());
                let done = done.clone();
                tokio::spawn(async move {
                    let found = checked(&passwords, &users, (user, password), from).await;
                    done.lock().unwrap().push(found.is_ok());
                })
            };
            let address = |number| IpAddr::from([10, 0, 1, number]);
            let mut tasks: Vec<_> = (0..200).map(|one| task("ci", "wrong", address(one))).collect();
            tasks.push(task("deploy", "secret", HERE));
            // All have run until they wait for a worker.
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            drop(busy);
            for task in tasks {
                task.await.unwrap();
            }
            let done = done.lock().unwrap();
            let position = done.iter().position(|found| *found).unwrap();
            // Behind the strangers it would be the last, at 200. The machine can leave the thread that
            // checks its password without a processor for a while.
            assert!(position < 150, "{position} strangers came first, with {workers} workers");
            assert_eq!(passwords.strangers.available_permits(), (workers - 1).max(1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn known_addresses_make_room_last() {
        let (passwords, users) = (Passwords::new(1).unwrap(), users());
        assert!(checked(&passwords, &users, ("ci", "secret"), HERE).await.is_ok());
        let address = |number: usize| IpAddr::V4((0x0b00_0000 + number as u32).into());
        for number in 0..SOURCES {
            passwords.turns(address(number)).unwrap();
        }
        assert!(passwords.is_known(HERE), "the quiet strangers went");
        for number in 0..SOURCES {
            passwords.prove(address(number));
        }
        assert!(passwords.turns(address(SOURCES + 1)).is_ok(), "then the quiet known");
        assert!(!passwords.is_known(HERE));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_forgotten_in_time() {
        let (passwords, users) = (Passwords::new(1).unwrap(), users());
        let digest = |number: u64| {
            let mut digest = [0; DIGEST];
            digest[..8].copy_from_slice(&number.to_be_bytes());
            digest
        };
        for number in 0..MOST_REMEMBERED as u64 {
            passwords.remember([digest(2 * number), digest(2 * number + 1)]);
        }
        let remembers = |number| passwords.remembers(&digest(number));
        assert!(!remembers(0) && remembers(2 * MOST_REMEMBERED as u64 - 1));
        assert_eq!(passwords.remembered.lock().unwrap().times.len(), MOST_REMEMBERED);
        tokio::time::advance(REMEMBERED).await;
        assert!(!remembers(2 * MOST_REMEMBERED as u64 - 1));
        assert!(checked(&passwords, &users, ("ci", "secret"), HERE).await.is_ok());
        assert_eq!(passwords.remembered.lock().unwrap().order.len(), 2, "the expired are dropped");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn ten_thousand_guesses_take_one_worker_and_few_turns() {
        let passwords = Arc::new(Passwords::new(1).unwrap());
        let users = Arc::new(users());
        // A hundred from each of a hundred addresses.
        let guesses = (0..10_000_u32).map(|number| {
            let (passwords, users) = (passwords.clone(), users.clone());
            tokio::spawn(async move {
                let from = IpAddr::V4(std::net::Ipv4Addr::from_bits(0x0a00_0100 + number % 100));
                checked(&passwords, &users, ("ci", "wrong"), from).await.unwrap_err().reason
            })
        });
        let guesses: Vec<_> = guesses.collect();
        // One who knows the password has a turn among them.
        assert!(checked(&passwords, &users, ("ci", "secret"), HERE).await.is_ok());
        let mut hashed = 0;
        for guess in guesses {
            match guess.await.unwrap() {
                Reason::CredentialsRequired => hashed += 1,
                reason => assert_eq!(reason, Reason::RateLimit),
            }
        }
        // What an address may guess at once, and what time gave it since.
        let since = passwords.began.elapsed().as_secs() as u32 / 2 + 1;
        assert!(hashed >= 100 * GUESSES && hashed <= 100 * (GUESSES + since), "{hashed}");
        assert_eq!(passwords.workers.available_permits(), 1);
        let sources = passwords.sources.lock().unwrap();
        assert!(sources.values().all(|source| source.turns.available_permits() == TURNS));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_hundred_with_one_password_cost_two_hashes() {
        let passwords = Arc::new(Passwords::new(8).unwrap());
        let users = Arc::new(users());
        let checks = (0..100).map(|_| {
            let (passwords, users) = (passwords.clone(), users.clone());
            tokio::spawn(async move {
                checked(&passwords, &users, ("ci", "secret"), HERE).await.is_ok()
            })
        });
        for check in checks.collect::<Vec<_>>() {
            assert!(check.await.unwrap());
        }
        assert_eq!(guesses_left(&passwords, HERE), GUESSES);
    }
}
