//! The Azure clouds, the suffixes of their registries and storage, and the classification of hosts.
//!
//! Sources: the Azure documentation of Container Registry endpoints (login, dedicated data and
//! regional endpoints) and storage endpoints (standard, and the DNS-zone form). A suffix can have
//! several labels. Storage suffixes are intentionally wide, because every storage service (blob,
//! file, queue, table, dfs, web) and any future one uses them.

use super::name::Name;
use super::regions;

/// An Azure cloud.
#[derive(Debug, PartialEq, Eq)]
pub struct Cloud {
    /// Its name in the manual.
    pub title: &'static str,
    /// The suffix after the label of a login server.
    pub registry_suffix: &'static str,
    /// The suffix after the service of a storage account.
    pub storage_suffixes: &'static [&'static str],
    /// The known regions, for `data-endpoints = "every-region"`.
    pub regions: &'static [&'static str],
}

/// The clouds, the public one first.
pub const CLOUDS: &[Cloud] = &[
    Cloud {
        title: "Azure",
        registry_suffix: "azurecr.io",
        storage_suffixes: &["core.windows.net", "storage.azure.net"],
        regions: regions::PUBLIC,
    },
    Cloud {
        title: "Azure China",
        registry_suffix: "azurecr.cn",
        storage_suffixes: &["core.chinacloudapi.cn", "storage.azure.cn"],
        regions: regions::CHINA,
    },
    Cloud {
        title: "Azure US Government",
        registry_suffix: "azurecr.us",
        storage_suffixes: &["core.usgovcloudapi.net", "storage.azure.us"],
        regions: regions::US_GOVERNMENT,
    },
    Cloud {
        title: "Azure Germany (retired)",
        registry_suffix: "azurecr.de",
        storage_suffixes: &["core.cloudapi.de"],
        regions: regions::GERMANY,
    },
    Cloud {
        title: "Sovereign cloud, Germany",
        registry_suffix: "azurecr.sovcloud-azure.de",
        storage_suffixes: &["core.sovcloud-azure.de", "core.sovcloud-api.de"],
        regions: regions::SOVEREIGN_GERMANY,
    },
    Cloud {
        title: "Sovereign cloud, France",
        registry_suffix: "azurecr.sovcloud-azure.fr",
        storage_suffixes: &["core.sovcloud-azure.fr", "core.sovcloud-api.fr"],
        regions: regions::SOVEREIGN_FRANCE,
    },
];

/// The classification of a host name by its suffix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostKind<'a> {
    /// `<label>.azurecr.io`.
    Login {
        /// The cloud of the suffix.
        cloud: &'static Cloud,
        /// The label of the registry.
        label: &'a str,
    },
    /// `<label>.<region>.data.azurecr.io`.
    Data {
        /// The cloud of the suffix.
        cloud: &'static Cloud,
        /// The label of the registry.
        label: &'a str,
        /// The region of the replica.
        region: &'a str,
    },
    /// `<label>.<region>.geo.azurecr.io`.
    Regional {
        /// The cloud of the suffix.
        cloud: &'static Cloud,
        /// The label of the registry.
        label: &'a str,
        /// The region of the replica.
        region: &'a str,
    },
    /// A host below a registry suffix (or the suffix itself) in a form that Azure does not
    /// document.
    UnderRegistrySuffix {
        /// The cloud of the suffix.
        cloud: &'static Cloud,
    },
    /// A storage account, for any service.
    Storage {
        /// The cloud of the suffix.
        cloud: &'static Cloud,
    },
    /// Storage outside Azure that all tenants share behind one name or suffix.
    SharedStorage,
    /// A known registry outside Azure.
    KnownRegistry {
        /// What its hosts have in common: a suffix, a name, or an account.
        family: &'a str,
    },
    /// An unknown host.
    Elsewhere,
}

impl<'a> HostKind<'a> {
    /// Classifies a name. Compares a few suffixes and allocates nothing.
    #[must_use]
    pub fn of(name: &'a Name) -> Self {
        let text = name.as_str();
        for cloud in CLOUDS {
            if let Some(front) = before_suffix(text, cloud.registry_suffix) {
                return Self::of_registry(front, cloud);
            }
            if cloud.storage_suffixes.iter().any(|suffix| before_suffix(text, suffix).is_some()) {
                return Self::Storage { cloud };
            }
        }
        if is_shared_storage(text) {
            return Self::SharedStorage;
        }
        if let Some(family) = family_of_known_registry(text) {
            return Self::KnownRegistry { family };
        }
        Self::Elsewhere
    }

    fn of_registry(front: &'a str, cloud: &'static Cloud) -> Self {
        let mut labels = front.split('.');
        match (labels.next(), labels.next(), labels.next(), labels.next()) {
            (Some(label), None, ..) if !label.is_empty() => Self::Login { cloud, label },
            (Some(label), Some(region), Some("data"), None) => Self::Data { cloud, label, region },
            (Some(label), Some(region), Some("geo"), None) => {
                Self::Regional { cloud, label, region }
            }
            _ => Self::UnderRegistrySuffix { cloud },
        }
    }
}

/// Returns the name that clients ask for, of a name in the private DNS zone of a registry's suffix:
/// `contoso.privatelink.azurecr.io` is where the CNAME of `contoso.azurecr.io` leads.
#[must_use]
pub fn without_private_link(name: &Name) -> Option<String> {
    CLOUDS.iter().find_map(|cloud| {
        let front = before_suffix(name.as_str(), cloud.registry_suffix)?;
        let front = front.strip_suffix(".privatelink")?;
        Some(format!("{front}.{}", cloud.registry_suffix))
    })
}

/// What stands before `.suffix`; empty when the text is the suffix itself.
fn before_suffix<'a>(text: &'a str, suffix: &str) -> Option<&'a str> {
    let front = text.strip_suffix(suffix)?;
    if front.is_empty() { Some(front) } else { front.strip_suffix('.') }
}

/// Names of storage that all tenants of another cloud share.
fn is_shared_storage(text: &str) -> bool {
    const SUFFIXES: &[&str] = &[
        "storage.googleapis.com",
        "storage.cloud.google.com",
        "r2.cloudflarestorage.com",
        "r2.dev",
        "digitaloceanspaces.com",
        "backblazeb2.com",
        "wasabisys.com",
    ];
    if SUFFIXES.iter().any(|suffix| before_suffix(text, suffix).is_some()) {
        return true;
    }
    let amazon = ["amazonaws.com", "amazonaws.com.cn"];
    let Some(front) = amazon.iter().find_map(|suffix| before_suffix(text, suffix)) else {
        return false;
    };
    front.split('.').any(|label| label == "s3" || label.starts_with("s3-"))
}

/// Returns the family of a registry host, for registries that document it.
fn family_of_known_registry(text: &str) -> Option<&str> {
    const HOSTS: &[&str] = &["ghcr.io", "mcr.microsoft.com", "public.ecr.aws"];
    const SUFFIXES: &[&str] = &["docker.io", "gcr.io", "pkg.dev", "quay.io"];
    if HOSTS.contains(&text) {
        return Some(text);
    }
    if let Some(suffix) = SUFFIXES.iter().find(|one| before_suffix(text, one).is_some()) {
        return Some(suffix);
    }
    // `<account>.dkr.ecr.<region>.amazonaws.com`: each account is a separate tenant.
    let amazon = ["amazonaws.com", "amazonaws.com.cn"];
    let front = amazon.iter().find_map(|suffix| before_suffix(text, suffix))?;
    let (account, _) = front.split_once(".dkr.ecr")?;
    Some(account)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(text: &str) -> String {
        match HostKind::of(&Name::parse(text).unwrap()) {
            HostKind::Login { cloud, label } => format!("login {label} {}", cloud.registry_suffix),
            HostKind::Data { label, region, .. } => format!("data {label} {region}"),
            HostKind::Regional { label, region, .. } => format!("regional {label} {region}"),
            HostKind::UnderRegistrySuffix { .. } => "under".into(),
            HostKind::Storage { .. } => "storage".into(),
            HostKind::SharedStorage => "shared".into(),
            HostKind::KnownRegistry { family } => format!("registry {family}"),
            HostKind::Elsewhere => "elsewhere".into(),
        }
    }

    #[test]
    fn hosts_and_what_they_are() {
        let cases = [
            ("contoso.azurecr.io", "login contoso azurecr.io"),
            ("my-d7ezg.azurecr.cn", "login my-d7ezg azurecr.cn"),
            ("contoso.azurecr.sovcloud-azure.de", "login contoso azurecr.sovcloud-azure.de"),
            ("contoso.eastus.data.azurecr.io", "data contoso eastus"),
            ("contoso.usgovvirginia.data.azurecr.us", "data contoso usgovvirginia"),
            ("contoso.eastus.geo.azurecr.io", "regional contoso eastus"),
            ("azurecr.io", "under"),
            ("a.b.azurecr.io", "under"),
            ("a.b.c.data.azurecr.io", "under"),
            ("contoso.privatelink.azurecr.io", "under"),
            ("notazurecr.io", "elsewhere"),
            ("contoso.azurecr.io.evil.com", "elsewhere"),
            ("x.blob.core.windows.net", "storage"),
            ("x.z6.web.core.windows.net", "storage"),
            ("x.file.core.usgovcloudapi.net", "storage"),
            ("x.dfs.core.chinacloudapi.cn", "storage"),
            ("x.queue.core.cloudapi.de", "storage"),
            ("x.z13.blob.storage.azure.net", "storage"),
            ("x.privatelink.blob.core.windows.net", "storage"),
            ("core.windows.net", "storage"),
            ("database.windows.net", "elsewhere"),
            ("storage.googleapis.com", "shared"),
            ("bucket.storage.googleapis.com", "shared"),
            ("a.r2.cloudflarestorage.com", "shared"),
            ("prod-eu-west-1-starport-layer-bucket.s3.eu-west-1.amazonaws.com", "shared"),
            ("s3-us-west-2.amazonaws.com", "shared"),
            ("1.dkr.ecr.eu-west-1.amazonaws.com", "registry 1"),
            ("registry-1.docker.io", "registry docker.io"),
            ("europe-docker.pkg.dev", "registry pkg.dev"),
            ("cdn01.quay.io", "registry quay.io"),
            ("login.microsoftonline.com", "elsewhere"),
        ];
        for (host, expected) in cases {
            assert_eq!(described(host), expected, "{host}");
        }
    }
}
