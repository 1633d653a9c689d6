//! The foreign clients as programs: installed below the target directory on first use, then started.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Once};
use std::time::Duration;

use crate::support::process::Process;
use crate::support::server::certificate;
use crate::support::{repository, target_dir};

/// How long loading packages may take.
const INSTALL_PATIENCE: Duration = Duration::from_secs(300);

/// How long one scenario may take.
pub(crate) const SCENARIO_PATIENCE: Duration = Duration::from_secs(180);

/// A program that plays the scenarios.
pub(crate) struct Client {
    name: &'static str,
    program: PathBuf,
    script: PathBuf,
}

impl Client {
    /// The path of the program.
    pub(crate) fn program(&self) -> &str {
        self.program.to_str().expect("a path of UTF-8")
    }

    /// Starts the program with `arguments`.
    pub(crate) fn start(&self, arguments: &[&str]) -> Process {
        self.start_with(arguments, &[])
    }

    /// The same with these environment variables.
    pub(crate) fn start_with(&self, arguments: &[&str], environment: &[(&str, PathBuf)]) -> Process {
        let mut command = Command::new(&self.program);
        command.arg(&self.script).args(arguments);
        // Where Node.js looks for packages; Python does not care.
        command.env("NODE_PATH", node_modules());
        // What they trust besides the authorities of the host.
        command.env("SSL_CERT_FILE", certificate()).env("NODE_EXTRA_CA_CERTS", certificate());
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        Process::start(self.name, command)
    }

    /// Runs the program with `arguments` and returns what it printed.
    ///
    /// # Panics
    /// When it fails, with both of its outputs.
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        self.start(arguments).succeed(SCENARIO_PATIENCE)
    }
}

/// Python with the package `websockets`.
pub(crate) static PYTHON: LazyLock<Client> = LazyLock::new(|| python("client.py"));

/// Python with the packages `cent`, which calls the server API, and `websockets`.
pub(crate) static BACKEND: LazyLock<Client> = LazyLock::new(|| python("api.py"));

/// Python with the package `stomp.py`.
pub(crate) static STOMP_PYTHON: LazyLock<Client> = LazyLock::new(|| python("stomp_tcp.py"));

/// Node.js with the package `@stomp/stompjs`.
pub(crate) static STOMP_NODE: LazyLock<Client> = LazyLock::new(|| node("stomp.js"));

/// Node.js with the packages `sockjs-client` and `@stomp/stompjs`, which also steers a browser with them.
pub(crate) static SOCKJS_NODE: LazyLock<Client> = LazyLock::new(|| node("sockjs.js"));

/// Python running `script`, with what `requirements.txt` names.
fn python(script: &'static str) -> Client {
    static INSTALLED: Once = Once::new();
    let environment = target_dir("interop").join("python");
    INSTALLED.call_once(|| install_python(&environment));
    Client { name: script, program: environment.join("bin/python"), script: repository("tests/interop").join(script) }
}

fn install_python(environment: &Path) {
    let requirements = repository("tests/interop/requirements.txt");
    unless_installed(environment, &[&requirements], || {
        let mut venv = Command::new("python3");
        venv.args(["-m", "venv", "--clear"]).arg(environment);
        Process::start("python3 -m venv", venv).succeed(INSTALL_PATIENCE);
        let mut pip = Command::new(environment.join("bin/pip"));
        pip.args(["install", "--quiet", "--disable-pip-version-check", "--requirement"]).arg(&requirements);
        Process::start("pip install", pip).succeed(INSTALL_PATIENCE);
    });
}

/// Node.js with the package `ws`.
pub(crate) static NODE: LazyLock<Client> = LazyLock::new(|| node("client.js"));

/// Node.js with the package `playwright-core`, which steers a browser.
pub(crate) static BROWSER_DRIVER: LazyLock<Client> = LazyLock::new(|| node("browser.js"));

/// Node.js steering a browser that shows the admin page.
pub(crate) static BROWSER_ADMIN: LazyLock<Client> = LazyLock::new(|| node("admin.js"));

/// Node.js steering a browser that reads event streams.
pub(crate) static BROWSER_EVENT_SOURCE: LazyLock<Client> = LazyLock::new(|| node("event_source.js"));

/// Node.js with the package `centrifuge`.
pub(crate) static CENTRIFUGE_NODE: LazyLock<Client> = LazyLock::new(|| node("centrifuge/node.js"));

/// Node.js with the package `centrifuge`, whose WebSockets are blocked.
pub(crate) static CENTRIFUGE_EMULATED: LazyLock<Client> = LazyLock::new(|| node("centrifuge/emulated.js"));

/// Node.js steering a browser with the package `centrifuge`.
pub(crate) static CENTRIFUGE_BROWSER: LazyLock<Client> = LazyLock::new(|| node("centrifuge/browser.js"));

/// Node.js running the blocks of `docs/quickstart.md`.
pub(crate) static QUICKSTART_DRIVER: LazyLock<Client> = LazyLock::new(|| node("quickstart.js"));

/// Node.js steering a browser through the demo pages.
pub(crate) static DEMO_DRIVER: LazyLock<Client> = LazyLock::new(|| node("demo.js"));

/// Node.js steering a browser through the page of `examples/greetings.rs`.
pub(crate) static GREETINGS_DRIVER: LazyLock<Client> = LazyLock::new(|| node("greetings.js"));

/// Node.js with the library of `clients/js`.
pub(crate) static RINGFEED_NODE: LazyLock<Client> = LazyLock::new(|| node("ringfeed_js.js"));

/// Node.js with services for `ringfeed test`, and judges of what it writes.
pub(crate) static IMPORT_NODE: LazyLock<Client> = LazyLock::new(|| node("import.js"));

/// Python with a service for `ringfeed test`.
pub(crate) static IMPORT_PYTHON: LazyLock<Client> = LazyLock::new(|| python("import.py"));

/// Node.js running `script`, with what `package-lock.json` names.
fn node(script: &'static str) -> Client {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(install_node_modules);
    let script_path = repository("tests/interop").join(script);
    Client { name: script, program: PathBuf::from("node"), script: script_path }
}

fn install_node_modules() {
    let sources = ["package.json", "package-lock.json"].map(|name| repository("tests/interop").join(name));
    unless_installed(&node_modules(), &sources.each_ref(), || {
        let directory = target_dir("interop/node");
        for source in &sources {
            let name = source.file_name().expect("a file has a name");
            fs::copy(source, directory.join(name)).expect("the target directory can be written to");
        }
        let mut npm = Command::new("npm");
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&directory);
        Process::start("npm ci", npm).succeed(INSTALL_PATIENCE);
    });
}

fn node_modules() -> PathBuf {
    target_dir("interop/node").join("node_modules")
}

/// Runs `install` unless it has run to its end in `directory`, with the same `sources`.
fn unless_installed(directory: &Path, sources: &[&PathBuf], install: impl FnOnce()) {
    let stamp = directory.join(".installed-from");
    let wanted: String =
        sources.iter().map(|source| fs::read_to_string(source).expect("a file of the repository")).collect();
    if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return;
    }
    install();
    fs::write(stamp, wanted).expect("the target directory can be written to");
}
