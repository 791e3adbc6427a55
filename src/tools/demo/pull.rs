//! Pulls an image with a real OCI client, through a proxy or directly.
//!
//! The client checks every digest. In addition, each byte is compared with the registry's copy,
//! which is cheaper than a second hash and stricter.

use super::answer::{PASSWORD, USER};
use super::authority::Authority;
use super::image::{Blob, Image};
use super::progress::PullProgress;
use bytes::{Buf, Bytes};
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use rustls::crypto::aws_lc_rs;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::AsyncWrite;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Number of concurrent layers, as docker's default `max-concurrent-downloads`.
const LAYERS_AT_ONCE: usize = 3;
/// Timeout for each read from the registry or the proxy.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why a pull failed.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The image reference is invalid.
    #[error("{0}")]
    Reference(#[from] oci_client::ParseError),
    /// The client failed.
    #[error("{}", chain(.0))]
    Client(#[from] OciDistributionError),
    /// The client accepted bytes that differ from the registry's.
    #[error("the {0} differs from the registry's")]
    Differs(&'static str),
    /// The task of a layer panicked.
    #[error("{0}")]
    Task(#[from] tokio::task::JoinError),
}

/// The route of the client.
#[derive(Debug, Clone, Copy)]
pub enum PullRoute {
    /// Through the HTTP proxy at this address.
    Proxy(SocketAddr),
    /// Directly to the registry, ignoring the proxy of the environment.
    Direct,
}

/// An OCI client that trusts only the demonstration's authority.
pub struct Puller {
    client: Client,
}

impl Puller {
    /// Creates a client.
    pub fn new(authority: &Authority, way: PullRoute) -> Result<Self, PullError> {
        // oci-client takes its TLS provider from the process default and panics without one. An
        // existing default is harmless.
        let _ = aws_lc_rs::default_provider().install_default();
        let root =
            Certificate { encoding: CertificateEncoding::Der, data: authority.root().to_vec() };
        // An explicit proxy is the only way to make this client ignore the environment's.
        let (proxy, exempt) = match way {
            PullRoute::Proxy(address) => (address.to_string(), None),
            PullRoute::Direct => ("127.0.0.1:9".to_owned(), Some("127.0.0.1".to_owned())),
        };
        let client = Client::try_from(ClientConfig {
            tls_certs_only: vec![root],
            https_proxy: Some(format!("http://{proxy}")),
            no_proxy: exempt,
            connect_timeout: Some(PATIENCE),
            read_timeout: Some(PATIENCE),
            ..ClientConfig::default()
        })?;
        Ok(Self { client })
    }

    /// Pulls `reference`, compares it with `image`, and returns the duration. Counts the received
    /// layer bytes in `progress`.
    pub async fn pull(
        &self,
        reference: &str,
        image: &Image,
        progress: &Arc<PullProgress>,
    ) -> Result<Duration, PullError> {
        let begun = Instant::now();
        let reference: Reference = reference.parse()?;
        let credentials = RegistryAuth::Basic(USER.to_owned(), PASSWORD.to_owned());
        let (manifest, digest, config) =
            self.client.pull_manifest_and_config(&reference, &credentials).await?;
        if digest != image.manifest.digest {
            return Err(PullError::Differs("manifest"));
        }
        if config.as_bytes() != image.config.bytes {
            return Err(PullError::Differs("configuration"));
        }

        let turns = Arc::new(Semaphore::new(LAYERS_AT_ONCE));
        let mut layers = JoinSet::new();
        for descriptor in manifest.layers {
            let Some(Blob { bytes, .. }) = image.blob(&descriptor.digest).cloned() else {
                return Err(PullError::Differs("list of layers"));
            };
            let mut comparison = Comparison { expected: bytes, progress: Arc::clone(progress) };
            let (client, reference) = (self.client.clone(), reference.clone());
            let turns = Arc::clone(&turns);
            layers.spawn(async move {
                let _turn = turns.acquire_owned().await;
                client.pull_blob(&reference, &descriptor, &mut comparison).await?;
                if comparison.expected.has_remaining() {
                    return Err(PullError::Differs("length of a layer"));
                }
                Ok(())
            });
        }
        // The first error drops the set, which aborts the other layers.
        while let Some(layer) = layers.join_next().await {
            layer??;
        }
        Ok(begun.elapsed())
    }
}

/// Receives the bytes of a layer, and rejects the first that differs from the expected one.
struct Comparison {
    expected: Bytes,
    progress: Arc<PullProgress>,
}

impl AsyncWrite for Comparison {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.expected.starts_with(bytes) {
            let error = io::Error::new(io::ErrorKind::InvalidData, "the layer's bytes differ");
            return Poll::Ready(Err(error));
        }
        self.expected.advance(bytes.len());
        self.progress.add(bytes.len() as u64);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Returns an error and its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
        source = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::super::registry::{DataEndpoints, DemoRegistry};
    use super::super::{DATA, IMAGE, LOGIN, STORAGE, TAG};
    use super::*;
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::{TcpListener, TcpStream};

    async fn registry() -> (Authority, DemoRegistry) {
        let authority = Authority::new(&[LOGIN, DATA, STORAGE, "127.0.0.1"]).unwrap();
        let image = Image::generate(1, 300_000).await.unwrap();
        let small = Image::generate(2, 1000).await.unwrap();
        let registry = DemoRegistry::start(&authority, image, small).await.unwrap();
        (authority, registry)
    }

    /// A CONNECT proxy that lets the registry's names through, as the gate does, and no more.
    async fn proxy(login: SocketAddr, data: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut client = BufReader::new(client);
                    let mut lines = vec![];
                    while lines.last().is_none_or(|line: &String| line.trim() != "") {
                        let mut line = String::new();
                        client.read_line(&mut line).await.unwrap();
                        lines.push(line);
                    }
                    let to = match lines[0].split(' ').nth(1).unwrap() {
                        "contoso.azurecr.io:443" => login,
                        "contoso.eastus.data.azurecr.io:443" => data,
                        _ => return client.write_all(b"HTTP/1.1 403 no\r\n\r\n").await.unwrap(),
                    };
                    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                    let mut upstream = TcpStream::connect(to).await.unwrap();
                    #[expect(clippy::disallowed_methods, reason = "a proxy of the test's own")]
                    let copied = tokio::io::copy_bidirectional(&mut client, &mut upstream);
                    let _ = copied.await;
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn pulls_by_address() {
        let (authority, registry) = registry().await;
        let progress = PullProgress::of(registry.image().size());
        let reference = format!("{}/{IMAGE}:{TAG}", registry.login());
        let puller = Puller::new(&authority, PullRoute::Direct).unwrap();
        puller.pull(&reference, registry.image(), &progress).await.unwrap();
        assert_eq!(progress.done(), registry.image().size());
        assert_eq!(registry.strays(), 0);
    }

    #[tokio::test]
    async fn pulls_by_name_through_a_proxy_unless_the_data_endpoint_is_shared() {
        let (authority, registry) = registry().await;
        let proxy = proxy(registry.login(), registry.data()).await;
        let reference = format!("{LOGIN}/{IMAGE}:{TAG}");
        let puller = Puller::new(&authority, PullRoute::Proxy(proxy)).unwrap();
        let progress = PullProgress::of(registry.image().size());
        puller.pull(&reference, registry.image(), &progress).await.unwrap();
        assert_eq!(progress.done(), registry.image().size());

        registry.switch(DataEndpoints::Shared);
        let progress = PullProgress::of(registry.image().size());
        let error = puller.pull(&reference, registry.image(), &progress).await.unwrap_err();
        assert!(matches!(error, PullError::Client(_)), "{error}");
        assert!(error.to_string().contains("tunnel"), "{error}");
        assert_eq!(progress.done(), 0);
        assert_eq!((registry.strays(), registry.reached_outside()), (0, 0));
    }

    #[tokio::test]
    async fn another_image_is_noticed() {
        let (authority, registry) = registry().await;
        let reference = format!("{}/{IMAGE}:{TAG}", registry.login());
        let puller = Puller::new(&authority, PullRoute::Direct).unwrap();
        let other = Image::generate(3, 300_000).await.unwrap();
        let progress = PullProgress::of(1);
        let error = puller.pull(&reference, &other, &progress).await.unwrap_err();
        assert!(matches!(error, PullError::Differs("manifest")), "{error}");
    }

    #[tokio::test]
    async fn comparison_takes_the_expected_bytes_only() {
        for (bytes, taken) in [("ab", true), ("abc", true), ("abcd", false), ("b", false)] {
            let expected = Bytes::from_static(b"abc");
            let mut comparison = Comparison { expected, progress: PullProgress::of(3) };
            assert_eq!(comparison.write_all(bytes.as_bytes()).await.is_ok(), taken, "{bytes}");
        }
    }
}
