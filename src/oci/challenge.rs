//! `WWW-Authenticate`: the challenges of a response, several to a header (RFC 9110 §11.6.1).

/// The longest header that is read, in bytes.
pub const LONGEST_CHALLENGE: usize = 8 * 1024;

/// How many challenges a response may have, and how many parameters a challenge.
const MOST: usize = 16;

/// What a `Bearer` challenge says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bearer {
    /// The URL of the token server, as written.
    pub realm: String,
    /// The service that tokens are for.
    pub service: Option<String>,
    /// What the registry wants a token for.
    pub scope: Option<String>,
}

/// The challenges of a response that the gate can answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Challenges {
    /// The first `Bearer` challenge with a realm.
    pub bearer: Option<Bearer>,
    /// Whether there is a `Basic` challenge.
    pub basic: bool,
}

impl Challenges {
    /// Parses the values of all `WWW-Authenticate` headers; `None` when one breaks the grammar, or
    /// when there are too many.
    #[must_use]
    pub fn parse<'a>(values: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut found = Self::default();
        let mut count = 0;
        for value in values {
            if value.len() > LONGEST_CHALLENGE {
                return None;
            }
            for challenge in challenges(value)? {
                count += 1;
                if count > MOST {
                    return None;
                }
                found.take(challenge);
            }
        }
        Some(found)
    }

    fn take(&mut self, Challenge { scheme, mut parameters }: Challenge) {
        let mut of = |name: &str| {
            let at = parameters.iter().position(|(one, _)| one == name)?;
            Some(parameters.swap_remove(at).1)
        };
        match scheme.as_str() {
            "basic" => self.basic = true,
            "bearer" if self.bearer.is_none() => {
                if let Some(realm) = of("realm") {
                    let (service, scope) = (of("service"), of("scope"));
                    self.bearer = Some(Bearer { realm, service, scope });
                }
            }
            _ => {}
        }
    }
}

/// One challenge, its scheme and the names of its parameters in lower case.
struct Challenge {
    scheme: String,
    parameters: Vec<(String, String)>,
}

fn challenges(value: &str) -> Option<Vec<Challenge>> {
    let mut rest = Rest(value);
    let mut found: Vec<Challenge> = Vec::new();
    loop {
        rest.skip(|byte| byte == b' ' || byte == b'\t' || byte == b',');
        if rest.0.is_empty() {
            return Some(found);
        }
        let word = rest.token()?;
        let spaces = rest.skip(is_blank);
        if rest.0.starts_with('=') && !found.is_empty() {
            // A further parameter of the last challenge.
            rest.skip_one();
            let value = rest.value()?;
            found.last_mut()?.add(word, value)?;
        } else {
            if found.len() == MOST {
                return None;
            }
            let mut challenge =
                Challenge { scheme: word.to_ascii_lowercase(), parameters: Vec::new() };
            if spaces > 0 && !rest.0.starts_with(',') && !rest.0.is_empty() {
                rest.first_of(&mut challenge)?;
            }
            found.push(challenge);
        }
        rest.skip(is_blank);
        if !rest.0.is_empty() && !rest.0.starts_with(',') {
            return None;
        }
    }
}

impl Challenge {
    fn add(&mut self, name: &str, value: String) -> Option<()> {
        let name = name.to_ascii_lowercase();
        let twice = self.parameters.iter().any(|(one, _)| *one == name);
        if twice || self.parameters.len() == MOST {
            return None;
        }
        self.parameters.push((name, value));
        Some(())
    }
}

/// What has not been read of a header.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    /// Skips what fits, and returns how much that was.
    fn skip(&mut self, fits: impl Fn(u8) -> bool) -> usize {
        self.take(fits).len()
    }

    fn skip_one(&mut self) {
        let mut letters = self.0.chars();
        letters.next();
        self.0 = letters.as_str();
    }

    fn take(&mut self, fits: impl Fn(u8) -> bool) -> &'a str {
        let end = self.0.bytes().position(|byte| !fits(byte)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at_checked(end).unwrap_or((self.0, ""));
        self.0 = rest;
        taken
    }

    fn token(&mut self) -> Option<&'a str> {
        let token = self.take(is_token);
        (!token.is_empty()).then_some(token)
    }

    /// What stands behind a scheme: a parameter, or credentials in one word (token68), which are
    /// skipped.
    fn first_of(&mut self, challenge: &mut Challenge) -> Option<()> {
        let whole = self.0;
        if let Some(name) = self.token() {
            self.skip(is_blank);
            if self.0.starts_with('=') && !self.0.starts_with("==") {
                self.skip_one();
                if let Some(value) = self.value() {
                    return challenge.add(name, value);
                }
            }
        }
        self.0 = whole;
        let word = self.take(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte));
        (!word.is_empty()).then_some(())
    }

    fn value(&mut self) -> Option<String> {
        self.skip(is_blank);
        if !self.0.starts_with('"') {
            return self.token().map(ToOwned::to_owned);
        }
        self.skip_one();
        let mut value = String::new();
        loop {
            let letter = self.0.chars().next()?;
            self.skip_one();
            match letter {
                '"' => return Some(value),
                '\\' => {
                    value.push(self.0.chars().next()?);
                    self.skip_one();
                }
                ' '..='~' | '\t' => value.push(letter),
                _ => return None,
            }
        }
    }
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Bearer> {
        let owned = |text: Option<&str>| text.map(ToOwned::to_owned);
        Some(Bearer { realm: realm.into(), service: owned(service), scope: owned(scope) })
    }

    #[test]
    fn challenges_of_registries() {
        let scope = Some("repository:library/alpine:pull");
        for (values, expected, basic) in [
            (
                vec![
                    "Bearer realm=\"https://auth.docker.io/token\",\
                     service=\"registry.docker.io\",scope=\"repository:library/alpine:pull\"",
                ],
                bearer("https://auth.docker.io/token", Some("registry.docker.io"), scope),
                false,
            ),
            (vec!["bearer realm=x , service = y"], bearer("x", Some("y"), None), false),
            (vec!["Basic realm=\"a\", Bearer realm=\"b\""], bearer("b", None, None), true),
            (vec!["Bearer realm=\"b\",Basic realm=\"a\""], bearer("b", None, None), true),
            (vec!["Basic realm=\"a\"", "Bearer realm=\"b\""], bearer("b", None, None), true),
            (vec!["Bearer realm=\"a\", Bearer realm=\"b\""], bearer("a", None, None), false),
            (vec!["Negotiate, Bearer realm=\"b\""], bearer("b", None, None), false),
            (vec!["Negotiate YWJj==, Bearer realm=\"b\""], bearer("b", None, None), false),
            (vec!["Bearer realm=\"a\\\"b\",error=\"x, y=z\""], bearer("a\"b", None, None), false),
            (vec!["Bearer"], None, false),
            (vec!["Bearer service=\"x\""], None, false),
            (vec![""], None, false),
            (vec![" , ,"], None, false),
        ] {
            let found = Challenges::parse(values.iter().copied());
            assert_eq!(found, Some(Challenges { bearer: expected, basic }), "{values:?}");
        }
    }

    #[test]
    fn an_invalid_header_has_no_challenge() {
        let long = format!("Bearer realm=\"{}\"", "a".repeat(LONGEST_CHALLENGE));
        let many = ["Basic, "; 20].concat();
        let parameters: String = (0..20).map(|at| format!("a{at}=b,")).collect();
        let parameters = format!("Bearer {parameters}");
        for value in [
            "=",
            "\"Bearer\"",
            "Bearer realm=\"a",
            "Bearer realm=\"a\" service=\"b\"",
            "Bearer realm=\"a\",realm=\"b\"",
            "Bearer realm=\"a\u{1}\"",
            "Bearer realm=\"a\\",
            &long,
            &many,
            &parameters,
        ] {
            assert_eq!(Challenges::parse([value]), None, "{value}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_header_is_too_much(value in "\\PC{0,60}|[ ,=\"\\\\a-z]{0,60}") {
            let _ = Challenges::parse([value.as_str()]);
        }
    }
}
