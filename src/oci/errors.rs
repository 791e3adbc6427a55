//! Error bodies of the OCI distribution spec, which docker, podman and kubelet print.

use serde::Serialize;

/// The codes that the gate answers with. The spec lets a registry add its own; these are among
/// those that clients know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    /// The policy says no.
    Denied,
    /// Credentials are needed.
    Unauthorized,
    /// No operation of the gate.
    Unsupported,
    /// Too many requests.
    TooManyRequests,
    /// It could not be done now.
    Unavailable,
}

impl ErrorCode {
    /// Returns the code that stands in the body.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Denied => "DENIED",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Unsupported => "UNSUPPORTED",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unavailable => "UNAVAILABLE",
        }
    }
}

#[derive(Serialize)]
struct Body<'a> {
    errors: [Entry<'a>; 1],
}

#[derive(Serialize)]
struct Entry<'a> {
    code: &'static str,
    message: &'a str,
}

/// Returns the JSON body of an error.
#[must_use]
pub fn error_body(code: ErrorCode, message: &str) -> String {
    let body = Body { errors: [Entry { code: code.code(), message }] };
    // Text and a closed set of codes always serialize.
    serde_json::to_string(&body).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_the_specs() {
        let body = error_body(ErrorCode::Denied, "pullgate: \"x\" [tag-not-allowed 1]");
        let expected =
            r#"{"errors":[{"code":"DENIED","message":"pullgate: \"x\" [tag-not-allowed 1]"}]}"#;
        assert_eq!(body, expected);
    }
}
