//! One HTTPS request to a registry, and its answer within bounds.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper::header::{HeaderMap, HeaderName};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::dial::Upstream;

/// The largest body that is read, in bytes.
const LARGEST: usize = 4 * 1024 * 1024;

/// What a server answered.
#[derive(Debug)]
pub(super) struct ServerAnswer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl ServerAnswer {
    pub(super) fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Sends a GET on a fresh connection, and reads the answer. The body of a blob is not read.
pub(super) async fn get(
    stream: TlsStream<Upstream>,
    host: &str,
    target: &str,
    headers: &[(HeaderName, String)],
    within: Duration,
) -> Result<ServerAnswer, String> {
    let exchange = async {
        let (mut sender, driver) = http1::Builder::new()
            .max_buf_size(128 * 1024)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        let mut request =
            Request::get(target).header("host", host).header("user-agent", "pullgate-probe");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
        let driver = tokio::spawn(driver);
        let answer = async {
            let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
            let (head, mut body) = response.into_parts();
            let mut bytes = BytesMut::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| error.to_string())?;
                bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
                if bytes.len() > LARGEST {
                    return Err("the answer is larger than 4 MiB".to_owned());
                }
            }
            Ok(ServerAnswer { status: head.status, headers: head.headers, body: bytes.freeze() })
        };
        let answer = answer.await;
        driver.abort();
        answer
    };
    timeout(within, exchange).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}
