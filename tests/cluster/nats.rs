//! NATS servers: a current one from PyPI, and Debian's where it is installed. Each keeps its files below the target
//! directory and listens on loopback.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use crate::support::process::Process;
use crate::support::{PATIENCE, repository, target_dir};

/// Time to install a server.
const INSTALL_PATIENCE: Duration = Duration::from_secs(300);

/// A current server, installed with pip.
pub(crate) static CURRENT: LazyLock<PathBuf> = LazyLock::new(|| {
    let environment = target_dir("nats").join("python");
    let server = environment.join("bin/nats-server");
    if !server.exists() {
        let mut venv = Command::new("python3");
        venv.args(["-m", "venv", "--clear"]).arg(&environment);
        Process::start("python3 -m venv", venv).succeed(INSTALL_PATIENCE);
        let mut pip = Command::new(environment.join("bin/pip"));
        pip.args(["install", "--quiet", "--disable-pip-version-check", "--requirement"]);
        pip.arg(repository("tests/cluster/requirements.txt"));
        Process::start("pip install", pip).succeed(INSTALL_PATIENCE);
    }
    server
});

/// Debian's server, the oldest that works.
pub(crate) fn debian() -> Option<PathBuf> {
    let path = Path::new("/usr/sbin/nats-server");
    path.exists().then(|| path.to_owned())
}

/// A port that is free now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// NATS servers in one cluster.
pub(crate) struct Nats {
    program: PathBuf,
    directory: PathBuf,
    /// Of clients, and of the other servers.
    ports: Vec<(u16, u16)>,
    servers: Vec<Option<Process>>,
    /// A file with settings beside those of the command line; `None`: JetStream is on, and there are no others.
    settings: Option<PathBuf>,
}

impl Nats {
    /// Starts `count` servers with JetStream and empty stores.
    pub(crate) fn start(program: &Path, name: &str, count: usize) -> Nats {
        let directory = target_dir("nats").join(format!("{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        let ports = (0..count).map(|_| (free_port(), free_port())).collect();
        let servers = (0..count).map(|_| None).collect();
        let mut nats = Nats { program: program.to_owned(), directory, ports, servers, settings: None };
        (0..count).for_each(|server| nats.start_one(server));
        nats
    }

    /// Starts a server with these settings, and waits until it listens. JetStream is on if they say so.
    pub(crate) fn start_with_settings(program: &Path, name: &str, settings: &str) -> Nats {
        let directory = target_dir("nats").join(format!("{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).expect("the target directory can be written to");
        let file = directory.join("nats.conf");
        std::fs::write(&file, settings).expect("the target directory can be written to");
        let (program, ports) = (program.to_owned(), vec![(free_port(), free_port())]);
        let mut nats = Nats { program, directory, ports, servers: vec![None], settings: Some(file) };
        nats.start_one(0);
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", nats.port())).is_err() {
            assert!(Instant::now() < deadline, "timeout: the NATS server listens");
            std::thread::sleep(Duration::from_millis(10));
        }
        nats
    }

    /// The port of the first server.
    pub(crate) fn port(&self) -> u16 {
        self.ports[0].0
    }

    /// Starts a server, with what it had stored.
    pub(crate) fn start_one(&mut self, server: usize) {
        let (port, route_port) = self.ports[server];
        let mut command = Command::new(&self.program);
        command.args(["-a", "127.0.0.1", "-p", &port.to_string(), "-n", &format!("n{server}")]);
        match &self.settings {
            Some(file) => command.arg("-c").arg(file),
            None => command.arg("-js"),
        };
        command.arg("-sd").arg(self.directory.join(server.to_string()));
        if self.ports.len() > 1 {
            let routes: Vec<String> = self.ports.iter().map(|(_, port)| format!("nats://127.0.0.1:{port}")).collect();
            command.args(["--cluster_name", "test", "--cluster", &format!("nats://127.0.0.1:{route_port}")]);
            command.args(["--routes", &routes.join(",")]);
        }
        self.servers[server] = Some(Process::start("nats-server", command));
    }

    /// Kills a server.
    pub(crate) fn kill(&mut self, server: usize) {
        self.servers[server] = None;
    }

    /// The addresses of all servers, as TOML.
    pub(crate) fn addresses(&self) -> String {
        let addresses: Vec<String> =
            self.ports.iter().map(|(port, _)| format!("\"nats://127.0.0.1:{port}\"")).collect();
        format!("[{}]", addresses.join(", "))
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.servers.clear();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
