//! Pulls an image with a real OCI client, through a proxy or straight from the registry.
//!
//! The client checks every digest, as clients do; beyond that each byte is compared with the
//! registry's own copy, which costs less than a second hash and proves more.

use super::answer::{PASSWORD, USER};
use super::authority::Authority;
use super::image::{Blob, Image};
use super::progress::Progress;
use bytes::{Buf, Bytes};
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use rustls::crypto::ring;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::AsyncWrite;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Layers in flight at once, as docker's `max-concurrent-downloads` has it.
const LAYERS_AT_ONCE: usize = 3;
/// How long the registry or the proxy may leave the client waiting.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why a pull did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The image's name is none.
    #[error("{0}")]
    Reference(#[from] oci_client::ParseError),
    /// The client gave up.
    #[error("{}", chain(.0))]
    Client(#[from] OciDistributionError),
    /// The client was content with bytes that are not the registry's.
    #[error("the {0} differs from the registry's")]
    Differs(&'static str),
    /// A layer's task died.
    #[error("{0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Which way the client takes.
#[derive(Debug, Clone, Copy)]
pub enum Way {
    /// Through the HTTP proxy at this address.
    Proxy(SocketAddr),
    /// Straight to the registry, whatever proxy the environment names.
    Direct,
}

/// An OCI client that trusts the demonstration's authority only.
pub struct Puller {
    client: Client,
}

impl Puller {
    /// Sets a client up.
    pub fn new(authority: &Authority, way: Way) -> Result<Self, PullError> {
        // oci-client builds its TLS from the process's default provider and panics without one. It
        // does no harm if there is one already.
        let _ = ring::default_provider().install_default();
        let root =
            Certificate { encoding: CertificateEncoding::Der, data: authority.root().to_vec() };
        // Naming a proxy is the only way to have this client ignore the environment's.
        let (proxy, exempt) = match way {
            Way::Proxy(address) => (address.to_string(), None),
            Way::Direct => ("127.0.0.1:9".to_owned(), Some("127.0.0.1".to_owned())),
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

    /// Pulls `reference` whole, which must be `image`, and tells how long it took. The layers'
    /// bytes are counted in `progress` as they come.
    pub async fn pull(
        &self,
        reference: &str,
        image: &Image,
        progress: &Arc<Progress>,
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
        // The first error drops the set, which ends the other layers' tasks.
        while let Some(layer) = layers.join_next().await {
            layer??;
        }
        Ok(begun.elapsed())
    }
}

/// Takes a layer's bytes as they come, and refuses the first that is not the expected one.
struct Comparison {
    expected: Bytes,
    progress: Arc<Progress>,
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

/// An error and what caused it, in one line.
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
    use super::super::registry::{DataEndpoints, Registry};
    use super::super::{DATA, IMAGE, LOGIN, STORAGE, TAG};
    use super::*;
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::{TcpListener, TcpStream};

    async fn registry() -> (Authority, Registry) {
        let authority = Authority::new(&[LOGIN, DATA, STORAGE, "127.0.0.1"]).unwrap();
        let image = Image::generate(1, 300_000).await.unwrap();
        let small = Image::generate(2, 1000).await.unwrap();
        let registry = Registry::start(&authority, image, small).await.unwrap();
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
        let progress = Progress::of(registry.image().size());
        let reference = format!("{}/{IMAGE}:{TAG}", registry.login());
        let puller = Puller::new(&authority, Way::Direct).unwrap();
        puller.pull(&reference, registry.image(), &progress).await.unwrap();
        assert_eq!(progress.done(), registry.image().size());
        assert_eq!(registry.strays(), 0);
    }

    #[tokio::test]
    async fn pulls_by_name_through_a_proxy_unless_the_data_endpoint_is_shared() {
        let (authority, registry) = registry().await;
        let proxy = proxy(registry.login(), registry.data()).await;
        let reference = format!("{LOGIN}/{IMAGE}:{TAG}");
        let puller = Puller::new(&authority, Way::Proxy(proxy)).unwrap();
        let progress = Progress::of(registry.image().size());
        puller.pull(&reference, registry.image(), &progress).await.unwrap();
        assert_eq!(progress.done(), registry.image().size());

        registry.switch(DataEndpoints::Shared);
        let progress = Progress::of(registry.image().size());
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
        let puller = Puller::new(&authority, Way::Direct).unwrap();
        let other = Image::generate(3, 300_000).await.unwrap();
        let progress = Progress::of(1);
        let error = puller.pull(&reference, &other, &progress).await.unwrap_err();
        assert!(matches!(error, PullError::Differs("manifest")), "{error}");
    }

    #[tokio::test]
    async fn comparison_takes_the_expected_bytes_only() {
        for (bytes, taken) in [("ab", true), ("abc", true), ("abcd", false), ("b", false)] {
            let expected = Bytes::from_static(b"abc");
            let mut comparison = Comparison { expected, progress: Progress::of(3) };
            assert_eq!(comparison.write_all(bytes.as_bytes()).await.is_ok(), taken, "{bytes}");
        }
    }
}
