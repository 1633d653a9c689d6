//! Foreign clients over TLS, with a certificate of a private authority: Chromium on the page of the server, and npm's
//! `centrifuge` in Node.js and in Chromium.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use ringfeed::tls::{CertificateFiles, TlsSettings};

use crate::authority::Authority;
use crate::browser;
use crate::clients::{BROWSER_DRIVER, CENTRIFUGE_BROWSER, CENTRIFUGE_NODE};
use crate::support::PATIENCE;
use crate::support::process::Process;
use crate::world::{SECRET, World};

/// An authority, and a home directory whose Chromium trusts it.
struct Trusting {
    authority: Authority,
    home: PathBuf,
}

impl Trusting {
    fn new(name: &str) -> Trusting {
        let authority = Authority::new(name);
        authority.make("server");
        let home = authority.dir.join("home");
        let database = home.join(".pki/nssdb");
        fs::create_dir_all(&database).expect("the target directory can be written to");
        let store = format!("sql:{}", database.display());
        let certutil = |arguments: &[&str]| {
            let mut command = Command::new("certutil");
            command.args(["-d", &store]).args(arguments);
            // Debian has it in libnss3-tools.
            Process::start("certutil", command).succeed(PATIENCE);
        };
        certutil(&["-N", "--empty-password"]);
        certutil(&["-A", "-n", "authority of a test", "-t", "C,,", "-i", &authority.path("ca.pem")]);
        Trusting { authority, home }
    }

    /// Where the home directory and the authority's certificate are.
    fn environment(&self) -> [(&'static str, PathBuf); 2] {
        [("HOME", self.home.clone()), ("NODE_EXTRA_CA_CERTS", self.authority.dir.join("ca.pem"))]
    }

    fn world(&self) -> World {
        let dir = &self.authority.dir;
        let files = CertificateFiles { cert_file: dir.join("server.crt"), key_file: dir.join("server.key") };
        World::start_with(Some(TlsSettings { certificates: vec![files], ..TlsSettings::default() }))
    }
}

#[test]
fn the_page_is_live_in_a_browser_that_trusts_the_authority() {
    let Some(chromium) = browser::chromium() else { return };
    let trusting = Trusting::new("browser");
    let server = trusting.authority.start("[server]\ndemo = true\n", &[]);
    let url = format!("https://localhost:{}/", server.data.port());
    let client = BROWSER_DRIVER.start_with(&[chromium, &url], &trusting.environment());
    println!("{}", client.succeed(2 * PATIENCE));
}

#[test]
fn centrifuge_recovers_over_wss() {
    for scenario in ["pubsub", "recovery"] {
        let trusting = Trusting::new(scenario);
        let world = trusting.world();
        let url = format!("wss://localhost:{}/connection/websocket", world.address().port());
        let client = CENTRIFUGE_NODE.start_with(&[scenario, &url, "json", SECRET], &trusting.environment());
        world.follow(client);
        let Some(chromium) = browser::chromium() else { return };
        let world = trusting.world();
        let url = format!("wss://localhost:{}/connection/websocket", world.address().port());
        let arguments = [scenario, &url, "protobuf", SECRET, chromium];
        world.follow(CENTRIFUGE_BROWSER.start_with(&arguments, &trusting.environment()));
    }
}
