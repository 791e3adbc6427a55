//! dockerd with the BuildKit that it contains, and its client: both of Debian's docker.io.

use std::fs;
use std::path::PathBuf;

use super::daemon::{Daemon, bound_to_this_thread, find};
use super::lab::{Lab, Ran, Way};
use super::wait_until;

/// Returns the client of the same package: another one on the machine may not speak to this daemon.
fn client() -> PathBuf {
    let beside = find("dockerd").with_file_name("docker");
    if beside.exists() { beside } else { "/usr/bin/docker".into() }
}

/// A dockerd of the test.
pub struct Docker<'a> {
    lab: &'a Lab,
    daemon: Daemon,
    /// The start of a command line.
    client: [String; 3],
}

impl<'a> Docker<'a> {
    /// Starts a dockerd that uses `mirror` for Docker Hub, with these variables in its environment.
    pub fn start(lab: &'a Lab, way: Way, mirror: &str, variables: &[(&str, &str)]) -> Self {
        let at = lab.dir().join("docker");
        fs::create_dir_all(&at).unwrap();
        let settings = serde_json::json!({
            "data-root": at.join("data"), "exec-root": at.join("run"), "pidfile": at.join("pid"),
            "bridge": "none", "iptables": false, "ip6tables": false, "ip-forward": false,
            "storage-driver": "vfs", "registry-mirrors": [mirror],
        });
        let config = at.join("daemon.json");
        fs::write(&config, settings.to_string()).unwrap();
        let socket = format!("unix://{}", at.join("socket").display());
        let line = ["--config-file", config.to_str().unwrap(), "--host", &socket];
        let mut command = bound_to_this_thread("dockerd");
        command.args(line);
        lab.surround(&mut command, way);
        command.envs(variables.iter().copied());
        let mut daemon = Daemon::start("dockerd", lab.dir(), &mut command, None);
        let client = [client().display().to_string(), "--host".to_owned(), socket];
        let version: Vec<&str> = client.iter().map(String::as_str).chain(["version"]).collect();
        wait_until("dockerd answers", || {
            daemon.assert_alive();
            lab.run(Way::Direct, &version).status.success().then_some(())
        });
        Self { lab, daemon, client }
    }

    /// Runs `docker` with these words.
    pub fn run(&self, line: &str) -> Ran {
        let words = self.client.iter().map(String::as_str).chain(line.split_whitespace());
        let mut command = self.lab.command(Way::Direct, &words.collect::<Vec<_>>());
        Ran::of(line, &command.env("DOCKER_BUILDKIT", "1").output().unwrap())
    }

    /// Returns what the daemon has logged.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// Returns a file of an image.
    pub fn file(&self, image: &str, name: &str) -> Vec<u8> {
        let container = self.run(&format!("create --network none {image} none")).succeeded();
        let to = self.lab.dir().join("docker/copied");
        let container = container.stdout();
        self.run(&format!("cp {container}:/{name} {}", to.display())).succeeded();
        self.run(&format!("rm {container}")).succeeded();
        fs::read(to).unwrap()
    }
}
