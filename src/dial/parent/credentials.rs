//! What the gate tells a parent of its user: a fixed value, or what a program prints.
//!
//! The program is run without a shell and with an almost empty environment, within a deadline; its
//! output is bounded. Its first line is the value of `Proxy-Authorization`. A value may be used again
//! for a minute, but for those of schemes whose tokens are good for one request.

use std::collections::HashMap;
use std::io;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio::sync::{Mutex as AsyncMutex, Semaphore};
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use crate::policy::{Parent, ParentAddress, ParentCredentials};

/// How long a program may take.
const LONGEST_RUN: Duration = Duration::from_secs(5);

/// How long a value may be used again.
const LIFETIME: Duration = Duration::from_secs(60);

/// At most this many bytes of a program's output are read. A Kerberos token fits; together with the
/// rest of the request it stays below what proxies accept.
const LARGEST_VALUE: usize = 16 * 1024;

/// At most this many bytes of its standard error are logged.
const LARGEST_COMPLAINT: usize = 2 * 1024;

/// At most this many programs of one parent run at once, if each of their values serves one request.
const MOST_AT_ONCE: usize = 4;

/// The variables of the gate's environment that a program receives.
const PASSED_ON: [&str; 6] =
    ["HOME", "TMPDIR", "KRB5_CONFIG", "KRB5CCNAME", "KRB5_CLIENT_KTNAME", "KRB5_KTNAME"];

/// Schemes whose tokens serve one request (RFC 4559, and NTLM).
const SINGLE_USE: [&str; 2] = ["negotiate ", "ntlm "];

/// A value of `Proxy-Authorization`.
#[derive(Debug, Clone)]
pub(super) struct ProxyAuthorization {
    pub(super) value: Arc<str>,
    /// Whether it was used before, so that it may have expired.
    pub(super) is_cached: bool,
}

/// Why a program gave no value.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoCredentials {
    #[error("its program cannot be run: {0}")]
    NotRun(io::Error),
    #[error("its program ended with {0}")]
    Failed(std::process::ExitStatus),
    #[error("its program took too long")]
    Late,
    #[error("its program printed no value for Proxy-Authorization")]
    NoValue,
}

/// The programs' values, for each parent.
#[derive(Debug, Default)]
pub(super) struct Credentials {
    of_parents: Mutex<HashMap<Arc<str>, Arc<Values>>>,
}

/// The values of one parent's program.
#[derive(Debug)]
struct Values {
    command: Vec<String>,
    /// Locked while the program runs: sessions that want the same value wait for one run.
    known: AsyncMutex<Known>,
    at_once: Semaphore,
}

#[derive(Debug, Default)]
struct Known {
    value: Option<(Arc<str>, Instant)>,
    is_single_use: bool,
}

impl Credentials {
    /// The value to send to a parent. `None` if it wants none.
    pub(super) async fn get(
        &self,
        parent: &Parent,
        address: &ParentAddress,
        by: Instant,
    ) -> Result<Option<ProxyAuthorization>, NoCredentials> {
        let command = match &parent.credentials {
            None => return Ok(None),
            Some(ParentCredentials::Value(value)) => {
                return Ok(Some(ProxyAuthorization {
                    value: value.as_str().into(),
                    is_cached: false,
                }));
            }
            Some(ParentCredentials::Command(command)) => command,
        };
        let values = self.values(&parent.name, command);
        let by = by.min(Instant::now() + LONGEST_RUN);
        let value = timeout_at(by, values.next(address)).await.map_err(|_| NoCredentials::Late)?;
        value.map(Some)
    }

    /// Forgets a value that a parent has rejected.
    pub(super) async fn reject(&self, parent: &Parent, rejected: &ProxyAuthorization) {
        let Some(ParentCredentials::Command(command)) = &parent.credentials else { return };
        let values = self.values(&parent.name, command);
        let mut known = values.known.lock().await;
        if known.value.as_ref().is_some_and(|(value, _)| *value == rejected.value) {
            known.value = None;
        }
    }

    fn values(&self, parent: &Arc<str>, command: &[String]) -> Arc<Values> {
        let mut all = self.of_parents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(values) = all.get(parent).filter(|values| values.command == command) {
            return values.clone();
        }
        let values = Arc::new(Values {
            command: command.to_vec(),
            known: AsyncMutex::default(),
            at_once: Semaphore::new(MOST_AT_ONCE),
        });
        all.insert(parent.clone(), values.clone());
        values
    }
}

impl Values {
    async fn next(&self, address: &ParentAddress) -> Result<ProxyAuthorization, NoCredentials> {
        let mut known = self.known.lock().await;
        if let Some((value, until)) = &known.value
            && *until > Instant::now()
        {
            return Ok(ProxyAuthorization { value: value.clone(), is_cached: true });
        }
        if known.is_single_use {
            drop(known);
            // The semaphore is never closed.
            let _permit = self.at_once.acquire().await;
            let value = self.run(address).await?;
            return Ok(ProxyAuthorization { value: value.into(), is_cached: false });
        }
        let value: Arc<str> = self.run(address).await?.into();
        let is_single_use = |scheme: &&'static str| {
            value.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
        };
        known.is_single_use = SINGLE_USE.iter().any(is_single_use);
        if !known.is_single_use {
            known.value = Some((value.clone(), Instant::now() + LIFETIME));
        }
        Ok(ProxyAuthorization { value, is_cached: false })
    }

    /// Runs the program. It is killed if this is dropped.
    async fn run(&self, address: &ParentAddress) -> Result<String, NoCredentials> {
        let (program, arguments) = self.command.split_first().ok_or(NoCredentials::NoValue)?;
        let mut command = Command::new(program);
        command.args(arguments).current_dir("/").env_clear().kill_on_drop(true);
        command.env("PATH", "/usr/bin:/bin").env("LANG", "C");
        command.env("PULLGATE_PARENT", &**address.text());
        for name in PASSED_ON {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(NoCredentials::NotRun)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (output, complaint, status) = tokio::join!(
            head(stdout, LARGEST_VALUE + 1),
            head(stderr, LARGEST_COMPLAINT),
            child.wait()
        );
        let complaint = String::from_utf8_lossy(&complaint);
        for line in complaint.lines().filter(|line| !line.trim().is_empty()) {
            warn!(%program, "credentials-command: {}", line.escape_debug());
        }
        let status = status.map_err(NoCredentials::NotRun)?;
        if !status.success() {
            return Err(NoCredentials::Failed(status));
        }
        value(&output).ok_or(NoCredentials::NoValue)
    }
}

/// Returns the first `most` bytes. Further bytes are read and dropped, so that the program can end.
async fn head(source: Option<impl AsyncRead + Unpin>, most: usize) -> Vec<u8> {
    let Some(mut source) = source else { return Vec::new() };
    let mut kept = Vec::new();
    let mut chunk = [0; 1024];
    while let Ok(count) = source.read(&mut chunk).await {
        let read = chunk.get(..count).unwrap_or_default();
        if read.is_empty() {
            break;
        }
        let room = most.saturating_sub(kept.len()).min(read.len());
        kept.extend_from_slice(read.get(..room).unwrap_or_default());
    }
    kept
}

/// The value in a program's output: one line of printable ASCII.
fn value(output: &[u8]) -> Option<String> {
    if output.len() > LARGEST_VALUE {
        return None;
    }
    let line = std::str::from_utf8(output).ok()?.trim_end_matches(['\r', '\n']);
    let is_printable = line.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    (!line.trim().is_empty() && is_printable).then(|| line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{ConnectBy, Location};

    fn parent(script: &str) -> Parent {
        let command = ["/bin/sh", "-c", script].map(ToOwned::to_owned).to_vec();
        Parent {
            name: "corp".into(),
            place: Location { file: "pullgate.toml".into(), line: 1 },
            addresses: vec![ParentAddress::parse("10.0.0.8:8080").unwrap()],
            connect: ConnectBy::Name,
            credentials: Some(ParentCredentials::Command(command)),
            tls: None,
            proxy_protocol: false,
        }
    }

    async fn get(
        credentials: &Credentials,
        parent: &Parent,
    ) -> Result<ProxyAuthorization, NoCredentials> {
        let by = Instant::now() + Duration::from_secs(20);
        Ok(credentials.get(parent, &parent.addresses[0], by).await?.unwrap())
    }

    #[test]
    fn values_are_one_printable_line() {
        let cases: &[(&[u8], Option<&str>)] = &[
            (b"Basic YTpi\n", Some("Basic YTpi")),
            (b" Negotiate YII= \r\n", Some("Negotiate YII=")),
            (b"", None),
            (b"\n", None),
            (b"Basic a\nX-Other: b\n", None),
            (b"Basic a\rb", None),
            (b"Basic \xc3\xa4", None),
            (b"Basic a\0", None),
        ];
        for (output, expected) in cases {
            assert_eq!(
                value(output).as_deref(),
                *expected,
                "{:?}",
                String::from_utf8_lossy(output)
            );
        }
        assert_eq!(value(&[b'a'; LARGEST_VALUE + 1]), None);
    }

    #[tokio::test]
    async fn one_run_serves_all_sessions_until_its_value_is_rejected() {
        let dir = tempfile::tempdir().unwrap();
        let runs = dir.path().join("runs");
        let script = format!("echo run >> {0}; echo Bearer $(wc -l < {0})", runs.display());
        let (credentials, parent) = (Credentials::default(), parent(&script));
        let many = futures_of(20, || get(&credentials, &parent));
        for found in many.await {
            assert_eq!(&*found.unwrap().value, "Bearer 1");
        }
        let first = get(&credentials, &parent).await.unwrap();
        assert!(first.is_cached);
        credentials.reject(&parent, &first).await;
        let second = get(&credentials, &parent).await.unwrap();
        assert_eq!((&*second.value, second.is_cached), ("Bearer 2", false));
        // A late rejection of the old value does not concern the new one.
        credentials.reject(&parent, &first).await;
        assert!(get(&credentials, &parent).await.unwrap().is_cached);
    }

    #[tokio::test]
    async fn tokens_for_one_request_are_not_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let runs = dir.path().join("runs");
        let script = format!("echo run >> {0}; echo Negotiate $(wc -l < {0})", runs.display());
        let (credentials, parent) = (Credentials::default(), parent(&script));
        for number in 1..4 {
            let found = get(&credentials, &parent).await.unwrap();
            assert_eq!((&*found.value, found.is_cached), (&*format!("Negotiate {number}"), false));
        }
    }

    #[tokio::test]
    async fn the_environment_is_empty_but_for_what_is_documented() {
        let parent = parent("env | cut -d= -f1 | sort | tr '\\n' ' '");
        let found = get(&Credentials::default(), &parent).await.unwrap();
        let shells = ["PWD", "OLDPWD", "SHLVL", "_"];
        let expected = ["LANG", "PATH", "PULLGATE_PARENT"];
        for name in found.value.split_whitespace() {
            let known =
                shells.contains(&name) || expected.contains(&name) || PASSED_ON.contains(&name);
            assert!(known, "{name}");
        }
    }

    #[tokio::test]
    async fn programs_that_fail_give_no_value() {
        let credentials = Credentials::default();
        for (script, expected) in [
            ("exit 3", "its program ended with exit status: 3"),
            ("true", "its program printed no value for Proxy-Authorization"),
            ("yes | head -c 100000", "its program printed no value for Proxy-Authorization"),
        ] {
            let fault = get(&credentials, &parent(script)).await.unwrap_err();
            assert_eq!(fault.to_string(), expected, "{script}");
        }
        let mut missing = parent("");
        missing.credentials = Some(ParentCredentials::Command(vec!["/nonexistent".into()]));
        let fault = get(&credentials, &missing).await.unwrap_err();
        assert!(matches!(fault, NoCredentials::NotRun(_)), "{fault}");
        let slow = parent("exec sleep 60");
        let by = Instant::now() + Duration::from_millis(100);
        let late = credentials.get(&slow, &slow.addresses[0], by).await.unwrap_err();
        assert!(matches!(late, NoCredentials::Late), "{late}");
    }

    async fn futures_of<F: Future>(count: usize, make: impl Fn() -> F) -> Vec<F::Output> {
        let mut all: Vec<_> = (0..count).map(|_| Box::pin(make())).collect();
        let mut done = Vec::new();
        std::future::poll_fn(|context| {
            all.retain_mut(|one| match one.as_mut().poll(context) {
                std::task::Poll::Ready(output) => {
                    done.push(output);
                    false
                }
                std::task::Poll::Pending => true,
            });
            if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
        done
    }
}
