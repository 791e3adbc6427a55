//! An image reference as people write and paste it: `contoso.azurecr.io/team/app:1.0`.

use super::repository::RegistryName;

/// The registry of references that name none, and of `docker.io`: Docker Hub.
const DOCKER_HUB: &str = "registry-1.docker.io";
const DOCKER_HUB_NAMES: [&str; 2] = ["docker.io", "index.docker.io"];

/// The tag of a reference without one.
const DEFAULT_TAG: &str = "latest";

/// Schemes that are pasted with a host or an image.
const SCHEMES: [&str; 4] = ["https://", "http://", "docker://", "oci://"];

/// The parts of an image reference. They are split, not checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    registry: Option<String>,
    repository: String,
    reference: String,
}

/// Removes spaces, the scheme, and `/v2/` or `/` at the end, as people paste them with a host or an
/// image.
#[must_use]
pub fn pasted(text: &str) -> &str {
    let text = text.trim();
    let text = SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme)).unwrap_or(text);
    let text = text.strip_suffix('/').unwrap_or(text);
    text.strip_suffix("/v2").unwrap_or(text)
}

impl ImageName {
    /// Splits a reference; `None` if the text is a host, with or without its port.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = pasted(text);
        let (tagged, digest) = match text.split_once('@') {
            Some((tagged, digest)) if digest.contains(':') => (tagged, Some(digest)),
            _ => (text, None),
        };
        let (name, tag) = match tagged.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (tagged, None),
        };
        let is_port = |tag: &str| tag.bytes().all(|byte| byte.is_ascii_digit());
        let has_tag = tag.is_some_and(|tag| !is_port(tag)) && !name.contains(['.', ':']);
        if !name.contains('/') && digest.is_none() && !has_tag {
            return None;
        }
        let (registry, repository) = match name.split_once('/') {
            Some((first, rest)) if RegistryName::is_meant_by(first) => (Some(first), rest),
            _ => (None, name),
        };
        let is_docker_hub = registry.is_none_or(|name| DOCKER_HUB_NAMES.contains(&name));
        let repository = match repository.contains('/') || !is_docker_hub {
            true => repository.to_owned(),
            false => format!("library/{repository}"),
        };
        let reference = digest.or(tag).unwrap_or(DEFAULT_TAG).to_owned();
        Some(Self { registry: registry.map(str::to_owned), repository, reference })
    }

    /// Returns the host that a client without a mirror connects to.
    #[must_use]
    pub fn host(&self) -> &str {
        match self.registry.as_deref() {
            Some(registry) if !DOCKER_HUB_NAMES.contains(&registry) => registry,
            _ => DOCKER_HUB,
        }
    }

    /// Returns the request target with which a client asks the registry itself for the manifest.
    #[must_use]
    pub fn target(&self) -> String {
        format!("/v2/{}/manifests/{}", self.repository, self.reference)
    }

    /// Returns the request target with which a client asks a mirror for the manifest.
    #[must_use]
    pub fn mirror_target(&self) -> String {
        let Self { registry, repository, reference } = self;
        match registry {
            Some(registry) => format!("/v2/{registry}/{repository}/manifests/{reference}"),
            None => format!("/v2/{repository}/manifests/{reference}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_as_people_paste_them() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let with_digest = format!("contoso.azurecr.io/app:1@{digest}");
        for (text, host, target) in [
            (
                "contoso.azurecr.io/team/app:1.0",
                "contoso.azurecr.io",
                "contoso.azurecr.io/team/app/manifests/1.0",
            ),
            (
                " docker://contoso.azurecr.io/team/app\n",
                "contoso.azurecr.io",
                "contoso.azurecr.io/team/app/manifests/latest",
            ),
            ("localhost:5000/app:v1", "localhost:5000", "localhost:5000/app/manifests/v1"),
            (
                &with_digest,
                "contoso.azurecr.io",
                &format!("contoso.azurecr.io/app/manifests/{digest}"),
            ),
            ("nginx:alpine", DOCKER_HUB, "library/nginx/manifests/alpine"),
            ("nginx:1.27", DOCKER_HUB, "library/nginx/manifests/1.27"),
            ("docker.io/nginx", DOCKER_HUB, "docker.io/library/nginx/manifests/latest"),
            ("grafana/loki:3", DOCKER_HUB, "grafana/loki/manifests/3"),
        ] {
            let image = ImageName::parse(text).unwrap();
            assert_eq!(image.host(), host, "{text}");
            assert_eq!(image.mirror_target(), format!("/v2/{target}"), "{text}");
        }
    }

    #[test]
    fn hosts_are_no_images() {
        for (text, host) in [
            ("contoso.azurecr.io", "contoso.azurecr.io"),
            ("contoso.azurecr.io:8443", "contoso.azurecr.io:8443"),
            ("https://contoso.azurecr.io/v2/", "contoso.azurecr.io"),
            ("https://contoso.azurecr.io/", "contoso.azurecr.io"),
            ("contoso.azurecr.io:https", "contoso.azurecr.io:https"),
            ("contoso", "contoso"),
            ("fe80::a", "fe80::a"),
            ("[fd00::7]:443", "[fd00::7]:443"),
            ("user@host", "user@host"),
            ("", ""),
        ] {
            assert_eq!(ImageName::parse(text), None, "{text}");
            assert_eq!(pasted(text), host);
        }
    }
}
