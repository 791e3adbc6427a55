//! Users and their password hashes. Verification is intentionally slow, so it must not run on a
//! worker thread. Pure.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use argon2::password_hash::phc;
use argon2::{Argon2, Params, PasswordHasher as _, PasswordVerifier as _};

/// Maximum memory for verifying a password, in KiB.
pub const MOST_MEMORY_KIB: u32 = 256 * 1024;

/// Maximum number of rounds: of Argon2, and as a power of two of bcrypt.
const MOST_ROUNDS: (u32, u32) = (64, 16);

/// A password hash (Argon2 or bcrypt) of the users file. Never printed, because it allows offline
/// guessing.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash {
    text: Arc<str>,
    kind: HashKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HashKind {
    Argon2,
    Bcrypt,
}

/// Why a text is not a valid password hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PasswordHashFault {
    /// Neither Argon2 nor bcrypt.
    #[error("it is not an Argon2 or bcrypt hash")]
    Form,
    /// It needs too much memory or too many rounds.
    #[error("checking it would take more than 256 MiB or too many rounds")]
    Cost,
}

impl PasswordHash {
    /// Parses a hash: `$argon2id$…`, or `$2b$…` (also `2a` and `2y`).
    ///
    /// # Errors
    /// If it is invalid or too expensive.
    pub fn parse(text: &str) -> Result<Self, PasswordHashFault> {
        use PasswordHashFault::{Cost, Form};
        let kind = if text.starts_with("$argon2") {
            let hash = phc::PasswordHash::new(text).map_err(|_| Form)?;
            let params = Params::try_from(&hash).map_err(|_| Form)?;
            if hash.salt.is_none() || hash.hash.is_none() {
                return Err(Form);
            }
            if params.m_cost() > MOST_MEMORY_KIB || params.t_cost() > MOST_ROUNDS.0 {
                return Err(Cost);
            }
            HashKind::Argon2
        } else {
            // 2x marks hashes of a faulty program for non-ASCII characters.
            let known = ["$2a$", "$2b$", "$2y$"].iter().any(|prefix| text.starts_with(prefix));
            let parts: bcrypt::HashParts = text.parse().map_err(|_| Form)?;
            if !known {
                return Err(Form);
            }
            if parts.get_cost() > MOST_ROUNDS.1 {
                return Err(Cost);
            }
            HashKind::Bcrypt
        };
        Ok(Self { text: text.into(), kind })
    }

    /// Hashes a password with Argon2id for the users file.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn of(password: &[u8]) -> Result<Self, argon2::password_hash::Error> {
        let text = Argon2::default().hash_password(password)?.to_string();
        Ok(Self { text: text.into(), kind: HashKind::Argon2 })
    }

    /// Verifies a password. Slow, and uses up to [`MOST_MEMORY_KIB`].
    #[must_use]
    pub fn fits(&self, password: &[u8]) -> bool {
        match self.kind {
            HashKind::Argon2 => phc::PasswordHash::new(&self.text)
                .is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok()),
            // bcrypt uses 72 bytes only, so a longer password could match by its prefix.
            HashKind::Bcrypt => {
                bcrypt::non_truncating_verify(password, &self.text).is_ok_and(|fits| fits)
            }
        }
    }

    /// Returns the text, for the users file and for comparing hashes.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}(***)", self.kind)
    }
}

/// A user whose password was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The name of the user.
    pub name: Arc<str>,
    hash: PasswordHash,
}

/// All users by name.
#[derive(Debug, Clone, Default)]
pub struct Users {
    hashes: HashMap<Arc<str>, PasswordHash>,
}

impl Users {
    /// Adds a user. Returns `false` if the name exists.
    #[must_use]
    pub fn add(&mut self, name: &str, hash: PasswordHash) -> bool {
        let is_new = !self.hashes.contains_key(name);
        if is_new {
            self.hashes.insert(name.into(), hash);
        }
        is_new
    }

    /// Returns whether there are no users.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Returns whether the user exists.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.hashes.contains_key(name)
    }

    /// Returns the hash to verify a password against. For an unknown name it is another user's
    /// hash, which takes as long, so that timing does not reveal user names.
    #[must_use]
    pub fn challenge(&self, name: &str) -> Option<Challenge> {
        let (name, user) = match self.hashes.get_key_value(name) {
            Some((name, hash)) => (name, Some((name, hash))),
            None => (self.hashes.keys().next()?, None),
        };
        let hash = self.hashes.get(name)?.clone();
        let user = user.map(|(name, hash)| User { name: name.clone(), hash: hash.clone() });
        Some(Challenge { hash, user })
    }

    /// Returns whether a user still exists with the same password hash.
    #[must_use]
    pub fn still_have(&self, user: &User) -> bool {
        self.hashes.get(&user.name) == Some(&user.hash)
    }
}

/// A hash, and the user that a matching password authenticates.
#[derive(Debug, Clone)]
pub struct Challenge {
    hash: PasswordHash,
    user: Option<User>,
}

impl Challenge {
    /// Returns the hash.
    #[must_use]
    pub fn hash(&self) -> &PasswordHash {
        &self.hash
    }

    /// Verifies a password. Returns the user if it matches. Slow.
    #[must_use]
    pub fn meet(self, password: &[u8]) -> Option<User> {
        // In this order, so that both cases take as long.
        let fits = self.hash.fits(password);
        self.user.filter(|_| fits)
    }

    /// Returns the user, whose password was verified before.
    #[must_use]
    pub fn known(self) -> Option<User> {
        self.user
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `secret`, by `htpasswd -nbB -C 5`.
    const BCRYPT: &str = "$2y$05$C5UeVZL2Yn9VCkqkIqoQCeZYyC1tNo8Wf4WvkP0AEkUxdzzRJtGzS";

    #[test]
    fn passwords_fit_their_hashes_and_no_other() {
        let argon2 = PasswordHash::of(b"secret").unwrap();
        assert!(argon2.expose().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        let bcrypt = PasswordHash::parse(&bcrypt::hash("secret", 4).unwrap()).unwrap();
        for hash in [PasswordHash::parse(argon2.expose()).unwrap(), bcrypt] {
            assert!(hash.fits(b"secret"), "{hash:?}");
            for other in [&b"Secret"[..], b"secret ", b"secret\0", b""] {
                assert!(!hash.fits(other), "{hash:?} {other:?}");
            }
            assert!(!format!("{hash:?}").contains('$'));
        }
    }

    #[test]
    fn an_invalid_hash_is_rejected() {
        use PasswordHashFault::{Cost, Form};
        assert!(PasswordHash::parse(BCRYPT).is_ok());
        let salted = "$c29tZXNhbHQwMDAw$RdescudvJCsgt3ub+b+cvEZQw+Q8sCY9DVV8sCYrh9w";
        let argon2 = |params: &str| format!("$argon2id$v=19${params}{salted}");
        let cases = [
            ("secret".to_owned(), Err(Form)),
            (String::new(), Err(Form)),
            // MD5 and SHA-1, as htpasswd makes them unasked.
            ("$apr1$JSH2pnnb$3u2nWzIXjbTXAtLwYl8lt0".to_owned(), Err(Form)),
            ("{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=".to_owned(), Err(Form)),
            ("$argon2id$v=19$m=19456,t=2,p=1".to_owned(), Err(Form)),
            (BCRYPT.replace("$2y$", "$2x$"), Err(Form)),
            (BCRYPT.replace("$05$", "$31$"), Err(Cost)),
            (argon2("m=19456,t=2,p=1"), Ok(())),
            (argon2("m=4194304,t=2,p=1"), Err(Cost)),
            (argon2("m=19456,t=1000,p=1"), Err(Cost)),
        ];
        for (text, expected) in cases {
            assert_eq!(PasswordHash::parse(&text).map(|_| ()), expected, "{text}");
        }
    }

    #[test]
    fn bcrypt_takes_no_beginning_for_the_whole() {
        let long = "p".repeat(72);
        let hash = PasswordHash::parse(&bcrypt::hash(&long, 4).unwrap()).unwrap();
        assert!(!hash.fits(format!("{long}and more").as_bytes()));
    }

    #[test]
    fn an_unknown_user_is_verified_against_a_hash_too() {
        let mut users = Users::default();
        assert!(users.challenge("ci").is_none());
        let hash = PasswordHash::parse(&bcrypt::hash("secret", 4).unwrap()).unwrap();
        assert!(users.add("ci", hash.clone()) && !users.add("ci", hash));
        let user = users.challenge("ci").unwrap().meet(b"secret").unwrap();
        assert!(users.still_have(&user));
        assert!(users.challenge("ci").unwrap().meet(b"wrong").is_none());
        assert!(users.challenge("stranger").unwrap().meet(b"secret").is_none());
        let mut changed = Users::default();
        let hash = PasswordHash::parse(&bcrypt::hash("secret", 4).unwrap()).unwrap();
        assert!(changed.add("ci", hash) && !changed.still_have(&user));
        assert!(!Users::default().still_have(&user));
    }
}
