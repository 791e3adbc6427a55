//! The objects that all acts of the demo share: an authority, a registry, a configuration and a gate.

use anyhow::{Context as _, bail};

use super::gate::DemoGate;
use super::show::tell;
use crate::tools::demo::authority::Authority;
use crate::tools::demo::folder::{Afterwards, Folder};
use crate::tools::demo::image::Image;
use crate::tools::demo::registry::DemoRegistry;
use crate::tools::demo::{DATA, LATER_DATA, LATER_LOGIN, LOGIN, STORAGE, mebibytes};

/// The small image's size, in bytes.
const SMALL: u64 = 1 << 20;

/// The registry, the configuration and the gate that the acts use.
pub(super) struct DemoStage {
    pub(super) authority: Authority,
    pub(super) registry: DemoRegistry,
    pub(super) folder: Folder,
    pub(super) gate: DemoGate,
}

impl DemoStage {
    pub(super) async fn set(size: u64, afterwards: Afterwards) -> anyhow::Result<Self> {
        // The client trusts the demonstration's authority only, but its library also loads the
        // system's, and panics if there is none.
        if rustls_native_certs::load_native_certs().certs.is_empty() {
            bail!(
                "the system has no certificate authorities, and the demonstration's client does \
                 not start without any: install the package ca-certificates"
            );
        }
        tell(&format!("making an image of {:.0} MiB of random layers", mebibytes(size)));
        let authority =
            Authority::new(&[LOGIN, DATA, LATER_LOGIN, LATER_DATA, STORAGE, "127.0.0.1"])?;
        let image = Image::generate(1, size).await?;
        let small = Image::generate(2, SMALL).await?;
        let registry = DemoRegistry::start(&authority, image, small).await?;
        let folder = Folder::write(&std::env::temp_dir(), &registry, afterwards)?;
        let gate = DemoGate::start(&folder.settings()).await.context("the gate does not start")?;
        tell(&format!("registry {LOGIN} is at {}", registry.login()));
        tell(&format!("data endpoint {DATA} is at {}", registry.data()));
        tell(&format!(
            "pullgate listens on {}, its policy is {}",
            gate.proxy(),
            folder.path().display()
        ));
        Ok(Self { authority, registry, folder, gate })
    }
}
