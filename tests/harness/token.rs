//! The token service at `/oauth2/token`, as distribution's token authentication describes it:
//! clients with the push credentials, or the refresh token, get every requested scope. All others can
//! only pull, and nothing whose name begins with `private/`.
//!
//! It implements just enough HTTP for nginx in front of it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::acceptor::Acceptor;
use super::lab::PUSHER;
use super::pki::Pki;

/// What stands for user and password in the OAuth 2 form.
pub const REFRESH_TOKEN: &str = "a-refresh-token";

pub const ISSUER: &str = "pullgate-tests";

/// Lifetime of a token, in seconds.
const LIFE: u64 = 600;

/// Padding of a token, in bytes, so that it is as large as Azure's.
const LARGE: usize = 2_000;

/// Serves until it is dropped.
pub struct TokenService {
    _server: Acceptor,
}

impl TokenService {
    pub fn start(address: SocketAddr, pki: &Pki) -> Self {
        let signer = Signer::new(pki);
        let server = Acceptor::start(address, move |stream, _| drop(answer(stream, &signer)));
        Self { _server: server }
    }
}

fn answer(mut stream: TcpStream, signer: &Signer) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut authorized = false;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => {
                let expected = format!("Basic {}", STANDARD.encode(PUSHER));
                authorized = value.trim() == expected;
            }
            "content-length" => length = value.trim().parse().unwrap_or(0),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let query = request.split([' ', '?']).nth(2).unwrap_or_default();
    // Clients with credentials can POST a form instead (containerd does).
    let form = String::from_utf8_lossy(&body).into_owned();
    let fields: Vec<(String, String)> = [query, form.as_str()]
        .iter()
        .flat_map(|text| text.split('&'))
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), percent_decoded(value)))
        .collect();
    let of = |wanted: &str| {
        let wanted = wanted.to_owned();
        fields.iter().filter(move |(name, _)| *name == wanted).map(|(_, value)| value.as_str())
    };
    let (user, password) = PUSHER.split_once(':').unwrap();
    let authorized = authorized
        || (of("username").any(|value| value == user)
            && of("password").any(|value| value == password));
    let authorized = authorized || of("refresh_token").any(|value| value == REFRESH_TOKEN);
    let scopes: Vec<&str> = of("scope").flat_map(|scope| scope.split([' ', '+'])).collect();
    let service = of("service").next().unwrap_or_default();
    let token = signer.token(service, &scopes, authorized);
    let answer = json!({ "token": token, "access_token": token, "expires_in": LIFE }).to_string();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{answer}",
        answer.len()
    )
}

struct Signer {
    key: EcdsaKeyPair,
    certificate: String,
    random: SystemRandom,
}

impl Signer {
    fn new(pki: &Pki) -> Self {
        let key =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pki.signer_key).unwrap();
        let certificate = STANDARD.encode(&pki.signer_der);
        Self { key, certificate, random: SystemRandom::new() }
    }

    fn token(&self, service: &str, scopes: &[&str], authorized: bool) -> String {
        let access: Vec<Value> = scopes
            .iter()
            .filter_map(|scope| {
                let (kind, rest) = scope.split_once(':')?;
                let (name, actions) = rest.rsplit_once(':')?;
                let granted: Vec<&str> = actions
                    .split(',')
                    .filter(|action| {
                        let open = *action == "pull" && !name.starts_with("private/");
                        authorized || open
                    })
                    .collect();
                Some(json!({ "type": kind, "name": name, "actions": granted }))
            })
            .collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let header = json!({ "typ": "JWT", "alg": "ES256", "x5c": [self.certificate] });
        let claims = json!({
            "iss": ISSUER, "sub": "", "aud": service, "jti": "1",
            "iat": now, "nbf": now - 60, "exp": now + LIFE, "access": access,
            "roles": "A".repeat(LARGE),
        });
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(claims.to_string())
        );
        let signature = self.key.sign(&self.random, signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = (first == b'%').then(|| tail.get(..2)).flatten();
        let byte = hex
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
