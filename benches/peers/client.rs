//! The settings of the harness's TLS clients.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::{CipherSuite, ClientConfig, RootCertStore};

/// Returns the settings of a client that trusts this certificate, and that resumes no session, as a
/// program that has just been started.
pub fn client_config(trusted: &[u8]) -> anyhow::Result<Arc<ClientConfig>> {
    config_of(trusted, rustls::crypto::aws_lc_rs::default_provider())
}

/// Returns the settings of a client that speaks TLS to its proxy: as [`client_config`], with the
/// cipher that the clients of registries prefer.
pub fn client_of_proxy(trusted: &[u8]) -> anyhow::Result<Arc<ClientConfig>> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256);
    config_of(trusted, provider)
}

fn config_of(trusted: &[u8], provider: CryptoProvider) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.to_vec().into())?;
    let versions = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?;
    let mut config = versions.with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}
