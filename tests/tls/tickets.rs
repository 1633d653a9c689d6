//! Session tickets under the keys of a file: sessions survive a restart, and keys are replaced. `openssl s_client`
//! keeps the sessions.

use std::fs;

use crate::authority::Authority;
use crate::counter;
use crate::openssl::request_with;
use crate::support::http;
use crate::support::server::Server;

/// A key: this digit 64 times.
fn key(digit: char) -> String {
    format!("{}\n", digit.to_string().repeat(64))
}

/// A client of one version with a session that it keeps in a file.
struct Client<'a> {
    authority: &'a Authority,
    version: &'static str,
    session: String,
}

impl Client<'_> {
    fn say(&self, server: &Server, flag: &str) -> String {
        let flags = [self.version, "-verify_return_error", flag, &self.session];
        let said = request_with(server, &self.authority.dir.join("ca.pem"), &flags);
        assert!(said.contains("HTTP/1.1 404"), "{said}");
        said
    }

    /// Connects, and keeps the session.
    fn begin(&self, server: &Server) {
        assert!(self.say(server, "-sess_out").contains("New, "));
    }

    /// Whether the server resumes the session.
    fn is_resumed(&self, server: &Server) -> bool {
        self.say(server, "-sess_in").contains("Reused, ")
    }
}

fn clients<'a>(authority: &'a Authority) -> [Client<'a>; 2] {
    ["-tls1_3", "-tls1_2"].map(|version| Client {
        authority,
        version,
        session: authority.path(&format!("session{version}")),
    })
}

fn reload(server: &Server) -> (u16, String) {
    let answer = http::post(server.control, "/reload", "text/plain", b"");
    (answer.status, answer.text().to_owned())
}

#[test]
fn sessions_survive_a_restart_where_the_key_is_in_a_file() {
    let authority = Authority::new("tickets");
    authority.make("server");
    let file = authority.dir.join("tickets.key");
    fs::write(&file, key('a')).expect("a file");
    let lines = format!("ticket_key_file = \"{}\"\n", file.display());
    let before = authority.start(&lines, &[]);
    clients(&authority).iter().for_each(|client| client.begin(&before));
    before.stop();

    let after = authority.start(&lines, &[]);
    for client in &clients(&authority) {
        assert!(client.is_resumed(&after), "{}", client.version);
    }
    assert_eq!(counter(&after, "ringfeed_tls_handshakes_total", "kind=\"resumed\""), 2);
    after.stop();

    let without = authority.start("", &[]);
    for client in &clients(&authority) {
        assert!(!client.is_resumed(&without), "{}", client.version);
    }
}

#[test]
fn keys_are_replaced_by_a_reload_and_old_ones_decrypt_as_long_as_they_are_there() {
    let authority = Authority::new("rotation");
    authority.make("server");
    let file = authority.dir.join("tickets.key");
    let write = |keys: &str| fs::write(&file, keys).expect("a file");
    write(&key('a'));
    let lines = format!("ticket_key_file = \"{}\"\n", file.display());
    let server = authority.start(&lines, &[]);
    let clients = clients(&authority);
    clients.iter().for_each(|client| client.begin(&server));
    write(&format!("# new\n{}# old\n{}", key('b'), key('a')));
    assert_eq!(reload(&server).0, 200);
    assert!(clients.iter().all(|client| client.is_resumed(&server)), "the old key is still there");
    clients.iter().for_each(|client| client.begin(&server));
    write("nonsense\n");
    let (status, text) = reload(&server);
    assert_eq!(status, 422);
    assert!(text.contains("tickets.key:1: a key has 64 hexadecimal digits"), "{text}");
    assert!(clients.iter().all(|client| client.is_resumed(&server)), "a broken file changes nothing");
    write(&key('c'));
    assert_eq!(reload(&server).0, 200);
    assert!(!clients.iter().any(|client| client.is_resumed(&server)), "the old keys are gone");
    // Without the file, the keys are the process's own again.
    authority.config("");
    assert_eq!(reload(&server).0, 200);
    clients.iter().for_each(|client| client.begin(&server));
    assert_eq!(reload(&server).0, 200);
    assert!(clients.iter().all(|client| client.is_resumed(&server)), "a reload keeps them");
}
