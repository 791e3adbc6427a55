//! Digests of content, and what checks that bytes have one.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;

/// How a digest is computed: the two algorithms that the OCI image spec registers for everyone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// `sha256`, which every registry knows.
    Sha256,
    /// `sha512`.
    Sha512,
}

impl Algorithm {
    /// Returns the name that stands before the colon.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    fn of(code: &str) -> Option<Self> {
        [Self::Sha256, Self::Sha512].into_iter().find(|one| one.code() == code)
    }

    /// Returns how many hexadecimal digits stand behind the colon.
    fn digits(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }

    fn implementation(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha512 => &digest::SHA512,
        }
    }
}

/// Why a text is not a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DigestFault {
    /// The colon is missing.
    #[error("a digest is ALGORITHM:HEX")]
    Form,
    /// An algorithm that the gate cannot check.
    #[error("the digest's algorithm is neither sha256 nor sha512")]
    Algorithm,
    /// Too few, too many, or other characters than `0-9a-f`.
    #[error("the digest is not in lower-case hexadecimal digits of the right number")]
    Digits,
}

/// A digest, such as `sha256:` and 64 hexadecimal digits in lower case. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(Arc<str>);

impl Digest {
    /// Parses a digest.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, DigestFault> {
        let (algorithm, digits) = text.split_once(':').ok_or(DigestFault::Form)?;
        let algorithm = Algorithm::of(algorithm).ok_or(DigestFault::Algorithm)?;
        let hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if digits.len() != algorithm.digits() || !digits.bytes().all(hexadecimal) {
            return Err(DigestFault::Digits);
        }
        Ok(Self(text.into()))
    }

    /// Returns the digest as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the digest as text, without a copy.
    #[must_use]
    pub fn shared(&self) -> Arc<str> {
        self.0.clone()
    }

    /// Returns its algorithm.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match self.0.starts_with("sha512:") {
            true => Algorithm::Sha512,
            false => Algorithm::Sha256,
        }
    }

    /// Computes the digest of bytes that are there whole.
    #[must_use]
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut verifier = DigestVerifier::new(algorithm);
        verifier.update(bytes);
        verifier.finish()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, out)
    }
}

/// Computes a digest while bytes pass.
#[derive(Clone)]
pub struct DigestVerifier {
    algorithm: Algorithm,
    context: digest::Context,
}

impl DigestVerifier {
    /// Begins.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        Self { algorithm, context: digest::Context::new(algorithm.implementation()) }
    }

    /// Takes bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    /// Returns the digest of all bytes that were taken in.
    #[must_use]
    pub fn finish(self) -> Digest {
        let algorithm = self.algorithm;
        let value = self.context.finish();
        let code = algorithm.code().chars().chain([':']);
        Digest(code.chain(hexadecimal(value.as_ref())).collect::<String>().into())
    }

    /// Whether all bytes that were taken in have this digest.
    #[must_use]
    pub fn finds(self, wanted: &Digest) -> bool {
        let algorithm = self.algorithm;
        let value = self.context.finish();
        let digits = wanted.0.split_once(':').map_or("", |(_, digits)| digits);
        algorithm == wanted.algorithm() && hexadecimal(value.as_ref()).eq(digits.chars())
    }
}

fn hexadecimal(bytes: &[u8]) -> impl Iterator<Item = char> {
    let halves = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    halves.map(|half| char::from_digit(u32::from(half), 16).unwrap_or('0'))
}

impl fmt::Debug for DigestVerifier {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "DigestVerifier({})", self.algorithm.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_that_can_be_checked() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(Algorithm::Sha256, b"").as_str(), empty);
        assert_eq!(Digest::parse(empty).unwrap(), Digest::of(Algorithm::Sha256, b""));
        let long = Digest::of(Algorithm::Sha512, b"x");
        assert_eq!(Digest::parse(long.as_str()).unwrap().algorithm(), Algorithm::Sha512);
        let digits = empty.strip_prefix("sha256:").unwrap();
        for (text, fault) in [
            (digits.to_owned(), DigestFault::Form),
            (format!("md5:{digits}"), DigestFault::Algorithm),
            (format!("SHA256:{digits}"), DigestFault::Algorithm),
            (format!("sha256+b64:{digits}"), DigestFault::Algorithm),
            (format!("sha256:{}", digits.to_uppercase()), DigestFault::Digits),
            (format!("sha256:{digits}0"), DigestFault::Digits),
            (format!("sha512:{digits}"), DigestFault::Digits),
            ("sha256:".to_owned(), DigestFault::Digits),
            (format!("sha256:{}", digits.replace("e3b", "/..")), DigestFault::Digits),
        ] {
            assert_eq!(Digest::parse(&text), Err(fault), "{text}");
        }
    }

    #[test]
    fn pieces_have_the_digest_of_the_whole() {
        let bytes: Vec<u8> = (0..=255).cycle().take(1_000).collect();
        let mut verifier = DigestVerifier::new(Algorithm::Sha256);
        bytes.chunks(7).for_each(|piece| verifier.update(piece));
        let whole = Digest::of(Algorithm::Sha256, &bytes);
        assert!(verifier.clone().finds(&whole));
        for other in [Digest::of(Algorithm::Sha512, &bytes), Digest::of(Algorithm::Sha256, b"")] {
            assert!(!verifier.clone().finds(&other), "{other}");
        }
        assert_eq!(verifier.finish(), whole);
    }
}
