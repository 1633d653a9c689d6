//! Nodes and NATS servers that must show each other who they are: TLS with certificates on both sides, users with the
//! permissions of the documentation, tokens and nkeys. A wrong one learns the remedy, and no secret is shown.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::authority::Authority;
use crate::nats::{self, Nats};
use crate::support::process::Process;
use crate::support::server::{Server, ringfeed};
use crate::support::{PATIENCE, http, repository, target_dir};

const PASSWORD: &str = "a password that is shown nowhere";

/// An nkey of a user, made with `nk -gen user -pubout`; the same as in the documentation of NATS.
const SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
const PUBLIC_KEY: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";

/// A file of the test that only its owner can read.
pub(crate) fn secret_file(name: &str, secret: &str) -> PathBuf {
    let path = target_dir("cluster").join(format!("{name}-{}", std::process::id()));
    std::fs::write(&path, format!("{secret}\n")).expect("the target directory can be written to");
    let only_owner = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&path, only_owner).expect("the file is the test's");
    path
}

/// A configuration with these lines in `[cluster]`.
pub(crate) fn config(name: &str, lines: &str) -> PathBuf {
    let path = target_dir("cluster").join(format!("{name}-{}.toml", std::process::id()));
    let text = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[cluster]\nenabled = true\nreplicas = 1\nbuckets = 1\n\
         log_max_bytes = 1048576\nstart_wait_ms = 500\n{lines}"
    );
    std::fs::write(&path, text).expect("the target directory can be written to");
    path
}

/// What the documentation says that a node's user needs, for a cluster named `ringfeed`, as settings of a NATS server.
pub(crate) fn documented_permissions() -> String {
    let page = std::fs::read_to_string(repository("docs/cluster.md")).expect("the page is there");
    let start = page.find("permissions = {").expect("the page has permissions");
    let text = &page[start..];
    text[..text.find("\n}").expect("they end") + 2].to_owned()
}

/// The errors of a node that can't start.
fn errors(config: &Path) -> String {
    let mut command = ringfeed();
    command.args(["serve", "--control", "127.0.0.1:0", "--config"]).arg(config);
    let mut process = Process::start("ringfeed", command);
    assert_eq!(process.wait(PATIENCE * 2).code(), Some(2));
    process.all_errors(PATIENCE)
}

/// A node that has joined, and publishes.
pub(crate) fn works(config: &Path) -> Server {
    let server = Server::start_with_config(config, &[]);
    let deadline = Instant::now() + PATIENCE;
    while http::get(server.control, "/readyz").status != 200 {
        assert!(Instant::now() < deadline, "timeout: the node joins");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let published = http::post(server.control, "/publish/a", "text/plain", b"hello");
    assert_eq!(published.status, 200, "{}", published.text());
    server
}

#[test]
fn nodes_and_nats_servers_show_each_other_certificates_and_a_password() {
    let authority = Authority::new("nats");
    authority.make("server");
    authority.make_client("node", 30);
    let other = Authority::new("nats-other");
    other.make_client("node", 30);
    let file = |name: &str| authority.path(name);
    let settings = format!(
        "jetstream {{}}\ntls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", verify: true }}\n\
         authorization {{ users: [ {{ user: node, password: \"{PASSWORD}\", {} }} ] }}\n",
        file("server.crt"),
        file("server.key"),
        file("ca.pem"),
        documented_permissions()
    );
    let nats = Nats::start_with_settings(&nats::CURRENT, "secure", &settings);
    let servers = format!("servers = [\"tls://localhost:{}\"]\n", nats.port());
    let trust = format!("tls_ca_file = \"{}\"\n", file("ca.pem"));
    let certificate = format!("tls_cert_file = \"{}\"\ntls_key_file = \"{}\"\n", file("node.crt"), file("node.key"));
    let user = |password: &str| {
        let path = secret_file(&format!("password-{}", password.len()), password);
        format!("user = \"node\"\npassword_file = \"{}\"\n", path.display())
    };

    let good = config("secure", &format!("{servers}{trust}{certificate}{}", user(PASSWORD)));
    let first = works(&good);
    let second = works(&good);
    let metrics = http::get(second.control, "/metrics");
    assert!(metrics.text().contains("\nringfeed_cluster_rejections_total 0\n"), "the permissions suffice");
    drop((first, second));
    let shown = ringfeed().args(["config", "show", "--config"]).arg(&good).output().expect("the binary starts");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("password_file") && !shown.contains(PASSWORD), "{shown}");

    let by_address = format!("servers = [\"tls://127.0.0.1:{}\"]\n", nats.port());
    let foreign =
        format!("tls_cert_file = \"{}\"\ntls_key_file = \"{}\"\n", other.path("node.crt"), other.path("node.key"));
    let rows = [
        ("password", format!("{servers}{trust}{certificate}{}", user("a wrong one")), "check user and password_file"),
        ("nobody", format!("{servers}{trust}{certificate}"), "check user and password_file"),
        ("untrusted", format!("{servers}{certificate}{}", user(PASSWORD)), "set tls_ca_file to the certificate"),
        ("name", format!("{by_address}{trust}{certificate}{}", user(PASSWORD)), "as their certificates name them"),
        ("bare", format!("{servers}{trust}{}", user(PASSWORD)), "set tls_cert_file and tls_key_file"),
        ("foreign", format!("{servers}{trust}{foreign}{}", user(PASSWORD)), "set tls_cert_file and tls_key_file"),
    ];
    for (name, lines, remedy) in rows {
        let start = Instant::now();
        let errors = errors(&config(&format!("secure-{name}"), &lines));
        assert!(errors.contains(remedy), "{name}: {errors}");
        assert!(!errors.contains(PASSWORD) && !errors.contains("a wrong one"), "{name}: {errors}");
        eprintln!("{name}: {:.1?}", start.elapsed());
    }
}

#[test]
fn tokens_and_nkeys_open_a_server_and_tls_is_not_negotiable() {
    let token = format!("jetstream {{}}\nauthorization {{ token: \"{PASSWORD}\" }}\n");
    let nats = Nats::start_with_settings(&nats::CURRENT, "token", &token);
    let servers = format!("servers = [\"nats://127.0.0.1:{}\"]\n", nats.port());
    let token_file = secret_file("token", PASSWORD);
    drop(works(&config("token", &format!("{servers}token_file = \"{}\"\n", token_file.display()))));
    let wrong = secret_file("token-wrong", "another one");
    let errors_of = |name: &str, lines: &str| errors(&config(name, lines));
    let said = errors_of("token-wrong", &format!("{servers}token_file = \"{}\"\n", wrong.display()));
    assert!(said.contains("token_file") && !said.contains("another one"), "{said}");
    // A node that wants TLS sends no token to a server without it.
    let secure =
        format!("servers = [\"tls://localhost:{}\"]\ntoken_file = \"{}\"\n", nats.port(), token_file.display());
    let said = errors_of("token-tls", &secure);
    assert!(said.contains("serve TLS there"), "{said}");
    drop(nats);

    let nkey = format!("jetstream {{}}\nauthorization {{ users: [ {{ nkey: {PUBLIC_KEY} }} ] }}\n");
    let nats = Nats::start_with_settings(&nats::CURRENT, "nkey", &nkey);
    let seed = secret_file("seed", SEED);
    let lines =
        format!("servers = [\"nats://127.0.0.1:{}\"]\ncredentials_file = \"{}\"\n", nats.port(), seed.display());
    drop(works(&config("nkey", &lines)));
}

#[test]
fn a_user_without_permissions_learns_which_one_is_missing() {
    let settings = "jetstream {}\nauthorization { users: [ { user: node, password: p, permissions: { publish: \
                    \"rf.ringfeed.>\", subscribe: \">\" } } ] }\n";
    let nats = Nats::start_with_settings(&nats::CURRENT, "permissions", settings);
    let password = secret_file("p", "p");
    let lines = format!(
        "servers = [\"nats://127.0.0.1:{}\"]\nuser = \"node\"\npassword_file = \"{}\"\n",
        nats.port(),
        password.display()
    );
    let said = errors(&config("permissions", &lines));
    assert!(said.contains("$JS.API.INFO") && said.contains("docs/cluster.md"), "{said}");
}
