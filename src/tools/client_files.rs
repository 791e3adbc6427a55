//! Generates the files that make clients pull through a mirror. Pure. If a client has a setting
//! that prevents direct connections, the file uses it.

use std::fmt::Write as _;

/// The client program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientKind {
    /// containerd, also as used by kubelet.
    Containerd,
    /// podman, CRI-O, skopeo, buildah.
    Podman,
    /// dockerd.
    Docker,
    /// k3s and RKE2.
    K3s,
    /// buildkitd.
    Buildkit,
    /// Azure IoT Edge, whose containers are docker's.
    IotEdge,
}

/// The address of the mirror for its clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorAddress {
    /// `host:port` by which clients reach the gate.
    pub authority: String,
    /// `https`, or `http` on loopback.
    pub scheme: &'static str,
}

/// A registry of the mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    /// The names for clients, the login server first.
    pub names: Vec<String>,
    /// Whether it serves requests that name no registry.
    pub is_default: bool,
}

/// Returns the files.
#[must_use]
pub fn files(kind: ClientKind, gate: &MirrorAddress, registries: &[Offered]) -> String {
    let names = registries.iter().flat_map(|registry| &registry.names);
    let names: Vec<&str> = names.map(String::as_str).collect();
    match kind {
        ClientKind::Containerd => containerd(gate, &names),
        ClientKind::Podman => podman(gate, &names),
        ClientKind::Docker | ClientKind::IotEdge => docker(gate, registries),
        ClientKind::K3s => k3s(gate, &names),
        ClientKind::Buildkit => buildkit(gate, &names),
    }
}

/// Returns the files that make clients trust the gate's authority for inspected hosts, and for nothing
/// else. `authority`: its certificates, as PEM.
#[must_use]
pub fn trust(kind: ClientKind, hosts: &[String], authority: &str) -> String {
    let folder = match kind {
        ClientKind::Containerd | ClientKind::K3s => "/etc/containerd/certs.d",
        ClientKind::Podman => "/etc/containers/certs.d",
        ClientKind::Docker | ClientKind::IotEdge | ClientKind::Buildkit => "/etc/docker/certs.d",
    };
    let mut out = String::from(
        "#!/bin/sh\n# Has this client trust the gate's authority for inspected registries, and for nothing else.\n",
    );
    if kind == ClientKind::IotEdge {
        out.push_str("# The IoT Edge runtime pulls by docker (moby), which reads these folders.\n");
    }
    out.push_str("set -eu\n");
    for host in hosts {
        // docker and podman name a folder with a port as the image reference does.
        let _ = write!(
            out,
            "\nmkdir -p {folder}/{host}\ncat > {folder}/{host}/pullgate.crt <<'EOF'\n{}\nEOF\n",
            authority.trim_end()
        );
        if folder == "/etc/containerd/certs.d" {
            let _ = write!(
                out,
                "cat > {folder}/{host}/hosts.toml <<'EOF'\nserver = \"https://{host}\"\n\n\
                 [host.\"https://{host}\"]\n  ca = \"{folder}/{host}/pullgate.crt\"\nEOF\n"
            );
        }
    }
    let first = hosts.first().map_or("HOST", String::as_str);
    let try_it = match kind {
        ClientKind::Containerd => {
            format!("ctr images pull --hosts-dir {folder} {first}/REPOSITORY:TAG")
        }
        ClientKind::K3s => format!("crictl pull {first}/REPOSITORY:TAG"),
        ClientKind::Podman => format!("podman pull {first}/REPOSITORY:TAG"),
        ClientKind::Docker | ClientKind::IotEdge | ClientKind::Buildkit => {
            format!("docker pull {first}/REPOSITORY:TAG")
        }
    };
    let _ = write!(
        out,
        "\n# Try it: {try_it}\n# If that fails: pullgate doctor --allowed {first} \\\n\
         #   --authority {folder}/{first}/pullgate.crt\n"
    );
    out
}

fn containerd(MirrorAddress { authority, scheme }: &MirrorAddress, names: &[&str]) -> String {
    let mut out = String::from(
        "# containerd reads these folders if config.toml names them:\n\
         #   [plugins.\"io.containerd.grpc.v1.cri\".registry]\n\
         #     config_path = \"/etc/containerd/certs.d\"\n\
         # `server` replaces the registry itself: nothing is tried when the mirror refuses.\n",
    );
    for name in names {
        let _ = write!(
            out,
            "\n# /etc/containerd/certs.d/{name}/hosts.toml\n\
             server = \"{scheme}://{authority}\"\n\n\
             [host.\"{scheme}://{authority}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
        );
    }
    out
}

fn podman(MirrorAddress { authority, scheme }: &MirrorAddress, names: &[&str]) -> String {
    let mut out = String::from(
        "# /etc/containers/registries.conf.d/pullgate.conf\n\
         # `location` replaces the registry itself: nothing is tried when the mirror refuses.\n",
    );
    for name in names {
        let _ =
            write!(out, "\n[[registry]]\nprefix = \"{name}\"\nlocation = \"{authority}/{name}\"\n");
        if *scheme == "http" {
            out.push_str("insecure = true\n");
        }
    }
    out
}

fn docker(MirrorAddress { authority, scheme }: &MirrorAddress, registries: &[Offered]) -> String {
    let mut out = String::from("# docker pulls by the gate's name:\n");
    for name in registries.iter().flat_map(|registry| &registry.names) {
        let _ = writeln!(out, "#   docker pull {authority}/{name}/REPOSITORY:TAG");
    }
    let is_hub =
        |one: &&Offered| one.is_default && one.names.iter().any(|name| name == "docker.io");
    if registries.iter().any(|one| is_hub(&one)) {
        let _ = write!(
            out,
            "# For names of Docker Hub: /etc/docker/daemon.json. docker asks Docker Hub itself when \
             the mirror\n# refuses: block that on the network, and prove it with pullgate doctor.\n\
             {{ \"registry-mirrors\": [\"{scheme}://{authority}\"] }}\n"
        );
    } else {
        out.push_str(
            "# docker's registry-mirrors is for Docker Hub only, and no registry of the policy is\n\
             # called docker.io and is the default.\n",
        );
    }
    out
}

fn k3s(MirrorAddress { authority, scheme }: &MirrorAddress, names: &[&str]) -> String {
    let mut out = String::from(
        "# /etc/rancher/k3s/registries.yaml\n\
         # Start k3s with --disable-default-registry-endpoint: otherwise it asks the registry itself\n\
         # when the mirror refuses.\nmirrors:\n",
    );
    for name in names {
        let _ = write!(out, "  {name}:\n    endpoint:\n      - \"{scheme}://{authority}\"\n");
    }
    out
}

fn buildkit(MirrorAddress { authority, scheme }: &MirrorAddress, names: &[&str]) -> String {
    let mut out = String::from(
        "# /etc/buildkit/buildkitd.toml\n\
         # BuildKit asks the registry itself when the mirror refuses: block that on the network, and\n\
         # prove it with pullgate doctor.\n",
    );
    for name in names {
        let _ = write!(out, "\n[registry.\"{name}\"]\n  mirrors = [\"{authority}/{name}\"]\n");
    }
    if *scheme == "http" {
        let _ = write!(out, "\n[registry.\"{authority}\"]\n  http = true\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_name_the_gate_and_every_registry() {
        let gate = MirrorAddress { authority: "gate.example.com:5443".into(), scheme: "https" };
        let names = vec!["registry-1.docker.io".to_owned(), "docker.io".to_owned()];
        let registries = [Offered { names, is_default: true }];
        for kind in [
            ClientKind::Containerd,
            ClientKind::Podman,
            ClientKind::Docker,
            ClientKind::K3s,
            ClientKind::Buildkit,
        ] {
            let text = files(kind, &gate, &registries);
            assert!(text.contains("gate.example.com:5443"), "{text}");
            assert!(text.contains("docker.io"), "{text}");
            assert!(text.starts_with('#') && text.ends_with('\n'), "{text}");
        }
        let toml = files(ClientKind::Podman, &gate, &registries);
        assert!(toml::from_str::<toml::Table>(&toml).is_ok(), "{toml}");
        let toml = files(ClientKind::Buildkit, &gate, &registries);
        assert!(toml::from_str::<toml::Table>(&toml).is_ok(), "{toml}");
    }
}
