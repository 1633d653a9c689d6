//! What has to fit together before a server starts, beyond what is wrong with a single value.

use super::settings::{DEFAULT_NAMESPACE, Settings};
use crate::control::Access;
use crate::gateway::centrifuge::{CallKind, CentrifugeConfig};
use crate::proto::Host;
use crate::server::{ListenAddress, ListenerConfig, ProxyProtocol, ServeError};
use crate::topics::{Allowed, TopicName};

/// What the settings come to, with the content of the files that they name.
#[derive(Debug)]
pub struct Preflight {
    /// Who may use the control port.
    pub access: Access,
    /// How clients of Centrifugo's protocol are served.
    pub centrifuge: CentrifugeConfig,
}

/// Checks what a server would reject when it starts, without opening anything but the files that the settings name.
///
/// # Errors
/// A text that says what is wrong and the remedy.
pub fn preflight(settings: &Settings) -> Result<Preflight, String> {
    // Without the socket unit that passes a socket, as in a check, nobody can know its address.
    let control = settings.server.control.resolved().unwrap_or_else(|| settings.server.control.clone());
    if settings.listener.iter().any(|listener| is_same(&listener.address, &control)) {
        return Err(format!(
            "the data port and the control port cannot both be {control}: choose another port with control in [server], \
             or --control"
        ));
    }
    if settings.server.control_tls && matches!(control, ListenAddress::Unix(_)) {
        return Err(format!(
            "control_tls in [server] is for IP addresses, and the control port is {control}: leave it out"
        ));
    }
    let is_proxied = |listener: &&ListenerConfig| listener.proxy_protocol == ProxyProtocol::Require;
    if let Some(listener) = settings.listener.iter().find(is_proxied)
        && settings.server.trusted_proxies.is_empty()
    {
        return Err(ServeError::NoProxies(listener.address.clone()).to_string());
    }
    check_cluster(settings)?;
    check_keyed(settings)?;
    check_jwks_url(&settings.tokens.jwks_url)?;
    let centrifuge = settings.centrifuge_config()?;
    check_backend(settings)?;
    settings.acceptor()?;
    let access = Access::new(&control, settings.api.key()?).map_err(|error| error.to_string())?;
    let access = access.with_read_key(settings.api.read_key()?);
    Ok(Preflight { access, centrifuge })
}

/// The keys decide who is let in.
fn check_jwks_url(url: &str) -> Result<(), String> {
    let uri: Option<hyper::Uri> = url.parse().ok();
    let scheme = uri.as_ref().and_then(hyper::Uri::scheme_str).unwrap_or_default();
    match scheme {
        _ if url.is_empty() => Ok(()),
        "https" => Ok(()),
        "http" => {
            let host = uri.as_ref().and_then(hyper::Uri::host).unwrap_or_default();
            let is_loopback = Host::parse(host).is_some_and(|host| host.is_loopback());
            if !is_loopback {
                tracing::warn!("[tokens]: jwks_url is not https: who can change its response can make tokens");
            }
            Ok(())
        }
        _ => Err(format!("[tokens]: jwks_url = \"{url}\": must be a URL, as https://login.example.com/jwks.json")),
    }
}

/// Whether each call that the settings need has an endpoint.
fn check_backend(settings: &Settings) -> Result<(), String> {
    settings.backend.check().map_err(|error| error.to_string())?;
    settings.events.check().map_err(|error| error.to_string())?;
    for (name, namespace) in &settings.namespaces {
        let needed = [
            ("subscribe", namespace.subscribe, CallKind::Subscribe),
            ("publish", namespace.publish, CallKind::Publish),
        ];
        for (key, allowed, kind) in needed {
            if allowed == Allowed::Backend && settings.backend.kind(kind).endpoint.is_empty() {
                return Err(format!(
                    "[namespaces.{name}] has {key} = \"backend\", but there is no backend to call: set endpoint in \
                     [backend.{}]",
                    kind.name()
                ));
            }
        }
    }
    let personal = TopicName::new(&format!("{}:#1", settings.centrifuge.personal_namespace));
    let is_known = personal.is_ok_and(|topic| settings.topic_namespaces().find(&topic).is_ok());
    if settings.centrifuge.personal_channel && !settings.centrifuge.personal_namespace.is_empty() && !is_known {
        return Err("centrifuge.personal_namespace is not the name of a namespace: add [namespaces.NAME]".to_owned());
    }
    Ok(())
}

/// Whether keyed topics can keep their promise.
fn check_keyed(settings: &Settings) -> Result<(), String> {
    settings.topic_namespaces().check(settings.cluster.enabled)
}

/// Whether a node can say who it is, and keeps its secrets.
fn check_cluster(settings: &Settings) -> Result<(), String> {
    let cluster = &settings.cluster;
    if !cluster.enabled {
        return Ok(());
    }
    if let Some(server) = cluster.exposed_server() {
        tracing::warn!(
            "[cluster]: {server} is reached without TLS: who is in between can read and make publications; write tls:// \
             or set tls_ca_file"
        );
    }
    cluster.check().map_err(|error| format!("[cluster]: {error}"))
}

/// Whether a socket for one address would be in the way of the other's.
fn is_same(one: &ListenAddress, other: &ListenAddress) -> bool {
    let (ListenAddress::Ip(one), ListenAddress::Ip(other)) = (one, other) else { return one == other };
    let is_either_any = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && (one.ip() == other.ip() || is_either_any)
}

/// The namespaces that clients without a token may subscribe to; `default` is that of topics without a
/// colon.
pub fn open_namespaces(settings: &Settings) -> Vec<String> {
    let namespaces = settings.topic_namespaces();
    let open = namespaces.iter().filter(|(_, namespace)| namespace.subscribe == Allowed::Anyone);
    open.map(|(name, _)| if name.is_empty() { DEFAULT_NAMESPACE } else { name }.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn outcome(text: &str) -> Result<(), String> {
        preflight(&parse(text).unwrap()).map(drop)
    }

    #[test]
    fn what_a_server_rejects_is_found_before() {
        let rows = [
            ("server.control = \"0.0.0.0:8001\"", "--api-key-file"),
            ("server.control = \"127.0.0.1:8000\"", "cannot both be 127.0.0.1:8000"),
            ("[[listener]]\naddress = \"0.0.0.0:8001\"", "cannot both be 127.0.0.1:8001"),
            ("server.control = \"fd:a\"\n[[listener]]\naddress = \"fd:a\"", "cannot both be fd:a"),
            ("[server]\ncontrol = \"unix:a\"\ncontrol_tls = true", "control_tls in [server] is for IP addresses"),
            ("[[listener]]\nproxy_protocol = \"require\"", "needs the proxy's address in trusted_proxies"),
            ("api.key_file = \"/nowhere/key\"", "/nowhere/key: cannot be read"),
            ("backend.rpc.endpoint = \"https://a/\"", "https is not supported"),
            ("events.endpoint = \"a\"", "[events]: endpoint = \"a\": must be a URL"),
            ("[namespaces.a]\nsubscribe = \"backend\"", "set endpoint in [backend.subscribe]"),
            (
                "centrifuge.personal_channel = true\ncentrifuge.personal_namespace = \"b\"\n[namespaces.a]",
                "add [namespaces",
            ),
            ("tokens.jwks_file = \"/nowhere/keys\"", "/nowhere/keys: cannot be read"),
            ("tokens.jwks_url = \"login.example.com\"", "jwks_url = \"login.example.com\": must be a URL"),
            ("tokens.jwks_url = \"ftp://a/\"", "must be a URL"),
            ("[cluster]\nenabled = true\nname = \"a.b\"", "use ASCII letters"),
            ("[cluster]\nenabled = true\ntoken_file = \"/nowhere/token\"", "/nowhere/token: cannot be read"),
            ("[cluster]\nenabled = true\nservers = [\"ws://a\"]", "write nats://HOST:PORT"),
        ];
        for (text, expected) in rows {
            let error = outcome(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let quiet = "[server]\ncontrol = \"unix:a\"";
        for good in
            ["", quiet, "server.control = \"127.0.0.1:0\"\n[[listener]]\naddress = \"127.0.0.1:0\"", "api.key = \"k\""]
        {
            assert_eq!(outcome(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn where_tokens_are_set_a_namespace_is_open_only_if_it_says_so() {
        let tokens = "[tokens]\nhmac_secret = \"s\"\n";
        let rows = [
            (String::new(), &["default"][..]),
            ("[namespaces.chat]\n".to_owned(), &["default", "chat"]),
            (tokens.to_owned(), &[]),
            (format!("{tokens}[centrifuge]\nanonymous = true\n"), &[]),
            (format!("{tokens}[namespaces.chat]\nhistory_size = 1\n"), &[]),
            (format!("{tokens}[namespaces.default]\nsubscribe = \"anyone\"\n[namespaces.chat]\n"), &["default"]),
            (format!("{tokens}[namespaces.chat]\nsubscribe = \"anyone\"\n"), &["chat"]),
        ];
        for (text, expected) in rows {
            assert_eq!(open_namespaces(&parse(&text).unwrap()), expected, "{text}");
        }
    }
}
