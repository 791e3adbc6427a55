//! The gate's configuration folder, written as an operator would, and removed at the end.

use super::registry::DemoRegistry;
use super::{
    DATA, DemoError, FOREIGN_DATA, FOREIGN_LOGIN, LATER_DATA, LATER_LOGIN, LOGIN, STORAGE,
};
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use ulid::Ulid;

/// What happens to the folder after the demonstration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    /// It is removed.
    Remove,
    /// It is kept for inspection.
    Keep,
}

/// A configuration folder with the policy for one registry.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    afterwards: Afterwards,
}

impl Folder {
    /// Writes the folder under `parent`, for a gate in front of `registry`.
    pub fn write(
        parent: &Path,
        registry: &DemoRegistry,
        afterwards: Afterwards,
    ) -> Result<Self, DemoError> {
        // The random name and the mode prevent access by other users through a shared /tmp.
        let path = parent.join(format!("pullgate-demo-{}", Ulid::generate()));
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(DemoError::during(format!("cannot create {}", path.display())))?;
        let folder = Self { path, afterwards };
        let policies = folder.path.join("registries.d");
        fs::create_dir(&policies)
            .map_err(DemoError::during(format!("cannot create {}", policies.display())))?;
        folder.put("pullgate.toml", &settings(registry, &folder.audit()))?;
        folder.add_registry("contoso", &endpoints(LOGIN, "eastus", DATA))?;
        Ok(folder)
    }

    /// Returns the path of the folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of `pullgate.toml`.
    #[must_use]
    pub fn settings(&self) -> PathBuf {
        self.path.join("pullgate.toml")
    }

    /// Returns the path of the audit file.
    #[must_use]
    pub fn audit(&self) -> PathBuf {
        self.path.join("audit.jsonl")
    }

    /// Adds the registry that is allowed later.
    pub fn add_later_registry(&self) -> Result<(), DemoError> {
        self.add_registry("fabrikam", &endpoints(LATER_LOGIN, "westeurope", LATER_DATA))
    }

    /// Removes it again.
    pub fn remove_later_registry(&self) -> Result<(), DemoError> {
        let path = self.path.join("registries.d/fabrikam.json");
        fs::remove_file(&path)
            .map_err(DemoError::during(format!("cannot remove {}", path.display())))
    }

    fn add_registry(&self, name: &str, printed: &str) -> Result<(), DemoError> {
        // Written beside the folder and renamed, so that the gate never reads an incomplete file.
        self.put("new-registry", printed)?;
        let path = self.path.join(format!("registries.d/{name}.json"));
        fs::rename(self.path.join("new-registry"), &path)
            .map_err(DemoError::during(format!("cannot write {}", path.display())))
    }

    fn put(&self, name: &str, content: &str) -> Result<(), DemoError> {
        let path = self.path.join(name);
        fs::write(&path, content)
            .map_err(DemoError::during(format!("cannot write {}", path.display())))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.afterwards == Afterwards::Remove {
            // A leftover folder in /tmp is harmless.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// `pullgate.toml`: all names, also forbidden ones, resolve to loopback, so that only the policy
/// protects them.
fn settings(registry: &DemoRegistry, audit: &Path) -> String {
    let audit = toml::Value::from(audit.display().to_string());
    let (login, data, outside) = (registry.login(), registry.data(), registry.outside());
    format!(
        r#"# Written by `pullgate demo`.
[[listen]]
mode = "connect"
address = "127.0.0.1:0"

[admin]
address = "127.0.0.1:0"

[policy]
registries = "registries.d"

[dns.hosts]
"{LOGIN}" = ["{login}"]
"{DATA}" = ["{data}"]
"{LATER_LOGIN}" = ["{login}"]
"{LATER_DATA}" = ["{data}"]
"{STORAGE}" = ["{outside}"]
"{FOREIGN_LOGIN}" = ["{outside}"]
"{FOREIGN_DATA}" = ["{outside}"]

[addresses]
allow = ["127.0.0.0/8"]

[audit]
path = {audit}
"#
    )
}

/// The output of `az acr show-endpoints`, with the trailing comma of Microsoft's sample.
fn endpoints(login: &str, region: &str, data: &str) -> String {
    format!(
        r#"{{
  "loginServer": "{login}",
  "dataEndpoints": [
    {{
      "region": "{region}",
      "endpoint": "{data}",
    }}
  ]
}}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::super::authority::Authority;
    use super::super::image::Image;
    use super::*;

    #[tokio::test]
    async fn folder_is_written_changed_and_removed() {
        let authority = Authority::new(&[LOGIN]).unwrap();
        let small = Image::generate(1, 10).await.unwrap();
        let registry = DemoRegistry::start(&authority, small.clone(), small).await.unwrap();
        let parent = tempfile::tempdir().unwrap();
        for afterwards in [Afterwards::Remove, Afterwards::Keep] {
            let folder = Folder::write(parent.path(), &registry, afterwards).unwrap();
            let files = || {
                let entries = fs::read_dir(folder.path().join("registries.d")).unwrap();
                let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
                names.sort();
                names
            };
            let settings: toml::Table =
                fs::read_to_string(folder.settings()).unwrap().parse().unwrap();
            assert!(settings["dns"]["hosts"].get(STORAGE).is_some());
            assert_eq!(settings["audit"]["path"].as_str().map(Path::new), Some(&*folder.audit()));
            assert_eq!(files(), ["contoso.json"]);
            folder.add_later_registry().unwrap();
            assert_eq!(files(), ["contoso.json", "fabrikam.json"]);
            folder.remove_later_registry().unwrap();
            assert_eq!(files(), ["contoso.json"]);
            assert!(folder.remove_later_registry().is_err());
            let path = folder.path().to_owned();
            drop(folder);
            assert_eq!(path.exists(), afterwards == Afterwards::Keep);
        }
    }
}
