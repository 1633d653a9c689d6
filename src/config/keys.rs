//! The list of all keys: what each does, and what it takes. Their defaults are those of the `settings`.

use std::fmt;

use crate::limits::{
    BACKEND_TIMEOUT_MS_MAX, CLUSTER_BUCKETS_MAX, COALESCE_MS_MAX, CONN_TOPICS_MAX, DURATION_MS_MAX,
    HANDSHAKES_PER_SECOND_MAX, PUBLISH_BYTES_MAX, RECV_BUFFER_BYTES, SHARDS_MAX,
};
use crate::topics::Event;

/// A table of the file.
pub(super) struct Section {
    /// What stands in brackets; [`ANY_NAME`] for a name that the operator chooses.
    pub(super) path: &'static [&'static str],
    /// It may stand there several times, in double brackets.
    pub(super) is_list: bool,
    /// What it is about: one or more lines for people.
    pub(super) about: &'static str,
    /// In the order in which people are shown them.
    pub(super) keys: &'static [Key],
}

/// A key and what is to be known about it.
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) takes: ValueKind,
    /// What it does, with its unit.
    pub(super) about: &'static str,
}

/// What values a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ValueKind {
    /// IP address and port, `unix:` and a path, or `fd:` and a name.
    ListenAddress,
    /// Permissions of a Unix socket.
    Mode,
    /// A list of paths of routes.
    Routes,
    /// A list of pairs of files.
    Certificates,
    /// Yes or no.
    Switch,
    /// Any text.
    Text,
    /// The path of a file.
    Path,
    /// One of these words.
    Word(&'static [&'static str]),
    /// An integer within these bounds.
    Whole(i64, i64),
    /// An integer within these bounds, or 0.
    WholeOrNone(i64, i64),
    /// A list of addresses of NATS servers.
    Servers,
    /// A list of origins.
    Origins,
    /// A list of addresses of proxies.
    Proxies,
    /// A list of names of header fields.
    HeaderNames,
    /// A list of these words.
    Words(&'static [&'static str]),
}

/// Stands for the names of namespaces.
pub(super) const ANY_NAME: &str = "*";

/// Without a bound of its own.
const MANY: i64 = i64::MAX;

/// As many as a count of 32 bits holds.
const COUNT: i64 = u32::MAX as i64;

/// A day.
const DAY_MS: i64 = DURATION_MS_MAX as i64;

/// Keys that had another name or place once, and what to write instead.
pub(super) const MOVED: &[(&[&str], &str)] =
    &[(&["server", "listen"], "server.listen is no key any more: write [[listener]] and address = \"…\" below it")];

const LISTENER: &[Key] = &[
    Key {
        name: "address",
        takes: ValueKind::ListenAddress,
        about: "Where subscribers connect: an IPv4 or IPv6 address and a port, unix: and the path of a socket, or fd: and\n\
                the name of a socket that systemd has opened (FileDescriptorName= of a socket unit).",
    },
    Key {
        name: "tls",
        takes: ValueKind::Switch,
        about: "Speak TLS here, with the certificates of [tls]: wss:// and https://.",
    },
    Key {
        name: "proxy_protocol",
        takes: ValueKind::Word(&["off", "require"]),
        about: "require: each connection begins with a header of the PROXY protocol, version 1 or 2, which names the\n\
                client, and comes from one of trusted_proxies. With tls, the header stands before TLS.",
    },
    Key {
        name: "routes",
        takes: ValueKind::Routes,
        about: "The routes that are served here, as [\"/feed/\", \"/sse/\"]. An empty list: all.",
    },
    Key {
        name: "protocol",
        takes: ValueKind::Word(&["", "stomp"]),
        about: "stomp: speak STOMP on TCP, without HTTP and WebSocket. Its usual port is 61613. Empty: HTTP.",
    },
    Key {
        name: "mode",
        takes: ValueKind::Mode,
        about: "The permissions of the socket's file, if address is unix:PATH: \"0660\" lets processes of its user and group\n\
                connect. Empty: those that the umask leaves, usually of the same user only.",
    },
];

const TLS: &[Key] = &[
    Key {
        name: "certificates",
        takes: ValueKind::Certificates,
        about: "Certificates with their keys, all PEM: a client receives the one for the name that it asks for, or else\n\
                the first. In cert_file the certificates of the issuers follow the server's own.",
    },
    Key {
        name: "min_version",
        takes: ValueKind::Word(&["1.2", "1.3"]),
        about: "The lowest version of TLS that clients may speak.",
    },
    Key {
        name: "client_certificates",
        takes: ValueKind::Word(&["none", "optional", "required"]),
        about: "Whether clients show a certificate of their own, on all ports with TLS. optional: those that have one.",
    },
    Key {
        name: "client_ca_file",
        takes: ValueKind::Path,
        about: "A file with the certificates of the authorities that clients' certificates are from, as PEM. Empty: none.",
    },
    Key {
        name: "ticket_key_file",
        takes: ValueKind::Path,
        about: "A file with keys of session tickets, 64 hexadecimal digits a line (openssl rand -hex 32): the first\n\
                encrypts, all decrypt. Sessions survive a restart then, and servers with the same file resume each\n\
                other's. Empty: random keys, which end with the process.",
    },
    Key {
        name: "hsts_seconds",
        takes: ValueKind::Whole(0, COUNT),
        about: "Seconds for which a browser that has loaded a page connects to its host by TLS only, on every port: the\n\
                header field Strict-Transport-Security. Pages have it only where no listener that other hosts reach serves\n\
                HTTP without TLS. 0: never.",
    },
];

const SERVER: &[Key] = &[
    Key {
        name: "control",
        takes: ValueKind::ListenAddress,
        about: "Where messages are published and metrics are read, as address in [[listener]]. An address that other hosts\n\
                can reach needs a key: see [api].",
    },
    Key {
        name: "control_mode",
        takes: ValueKind::Mode,
        about: "The permissions of the socket's file, if control is unix:PATH. Without a key, who can connect can do\n\
                everything. Empty: those that the umask leaves.",
    },
    Key {
        name: "control_tls",
        takes: ValueKind::Switch,
        about: "Speak TLS on the control port, with the certificates of [tls]: https://.",
    },
    Key {
        name: "shards",
        takes: ValueKind::Whole(0, SHARDS_MAX as i64),
        about: "Shards, each a thread with a ring of its own. 0: one for each CPU.",
    },
    Key {
        name: "max_connections",
        takes: ValueKind::Whole(0, COUNT),
        about: "Connections over all shards. 0: as many as RLIMIT_NOFILE, for each shard.",
    },
    Key {
        name: "handshakes_per_second",
        takes: ValueKind::Whole(0, HANDSHAKES_PER_SECOND_MAX as i64),
        about: "Connections that are let in each second. The others wait, and receive 503 with a time to retry when that\n\
                takes long. 0: as many as come.",
    },
    Key {
        name: "connections_per_address_max",
        takes: ValueKind::Whole(0, COUNT),
        about: "Connections from one IPv4 address, or one IPv6 network of 64 bits. 0: as many as come.",
    },
    Key {
        name: "subscriptions_per_connection_max",
        takes: ValueKind::Whole(1, CONN_TOPICS_MAX as i64),
        about: "Topics that one connection may subscribe to.",
    },
    Key {
        name: "message_bytes_max",
        takes: ValueKind::Whole(125, COUNT),
        about: "Bytes of one message from a client.",
    },
    Key {
        name: "messages_per_second_max",
        takes: ValueKind::Whole(0, COUNT),
        about: "Messages, commands of Centrifugo's protocol, pings and pongs of one client in a second; more end it. \
                0: any number.",
    },
    Key {
        name: "bytes_per_second_max",
        takes: ValueKind::WholeOrNone(RECV_BUFFER_BYTES as i64, COUNT),
        about: "Bytes of one client in a second; more end it. 0: any number.",
    },
    Key {
        name: "socket_notsent_bytes",
        takes: ValueKind::Whole(1, COUNT),
        about: "Maximum unsent bytes of a connection in the kernel. The rest of its backlog stays in the server, which can\n\
                still drop or conflate it.",
    },
    Key {
        name: "handshake_timeout_ms",
        takes: ValueKind::Whole(1, DAY_MS),
        about: "Milliseconds for an opening handshake to come whole.",
    },
    Key {
        name: "drain_spread_ms",
        takes: ValueKind::Whole(0, DAY_MS),
        about: "Milliseconds over which the server closes its clients, at an even pace, when it stops. 0: all at\n\
                once.",
    },
    Key {
        name: "drain_timeout_ms",
        takes: ValueKind::Whole(0, DAY_MS),
        about: "Milliseconds for clients to answer their Close frames when the server stops, after the last was sent.",
    },
    Key {
        name: "allowed_origins",
        takes: ValueKind::Origins,
        about: "Web pages that may connect, besides those of the server's own host and port: a list of origins, as\n\
                \"https://*.example.com\", or \"*\" for all. An empty list: pages of loopback addresses. Programs send no\n\
                origin, and are always let in. Behind a proxy on the same host that passes the public name on as Host,\n\
                name the site here: a server on loopback takes no other name for its own.",
    },
    Key {
        name: "log_format",
        takes: ValueKind::Word(&["text", "json"]),
        about: "How log lines are written to standard error: for people, or a JSON object a line.",
    },
    Key {
        name: "log_level",
        takes: ValueKind::Word(&["error", "warn", "info", "debug", "trace"]),
        about: "Which log lines are written: those of this level and of more important ones. The environment variable\n\
                RUST_LOG wins, and may name modules, as \"info,ringfeed=debug\".",
    },
    Key {
        name: "trusted_proxies",
        takes: ValueKind::Proxies,
        about: "Proxies that the server believes about a client's address: a list of addresses and networks, as\n\
                \"10.0.0.0/8\", and \"unix:\" for the peers of Unix sockets.",
    },
    Key {
        name: "forwarded_header",
        takes: ValueKind::Word(&["x-forwarded-for", "forwarded"]),
        about: "The header field in which trusted proxies state the client's address. They must append to it, or replace\n\
                it: the last address counts that is not one of trusted_proxies.",
    },
    Key {
        name: "sockjs",
        takes: ValueKind::Switch,
        about: "Serve SockJS below /stomp/, which carries STOMP, and with echo below /echo/. Only for clients without\n\
                WebSockets, and for pages that use sockjs-client.",
    },
    Key { name: "echo", takes: ValueKind::Switch, about: "Serve /echo, which sends every message back." },
    Key {
        name: "demo",
        takes: ValueKind::Switch,
        about: "Serve the demo pages at /demo/, and publish their data: this host's figures to the topic demo, the rest to\n\
                topics whose names begin with demo-. Any page may publish to some of these. messages_per_second_max is\n\
                then 200 instead of 0.",
    },
];

const KEEP_ALIVE: &[Key] = &[
    Key {
        name: "ping_interval_ms",
        takes: ValueKind::Whole(0, DAY_MS),
        about: "Milliseconds of silence after which a client is pinged. 0: never.",
    },
    Key { name: "pong_timeout_ms", takes: ValueKind::Whole(1, DAY_MS), about: "Milliseconds to answer a ping." },
    Key {
        name: "idle_timeout_ms",
        takes: ValueKind::Whole(0, DAY_MS),
        about: "Milliseconds of silence after which a client is disconnected, pinged or not. 0: never.",
    },
];

const DEFLATE: &[Key] = &[
    Key {
        name: "enabled",
        takes: ValueKind::Switch,
        about: "Compress messages for clients that offer permessage-deflate, and take compressed ones.",
    },
    Key {
        name: "level",
        takes: ValueKind::Whole(1, 9),
        about: "How hard to compress: 1, the fastest, to 9, the smallest.",
    },
    Key {
        name: "bytes_min",
        takes: ValueKind::Whole(0, MANY),
        about: "Bytes of a message from which on it is compressed.",
    },
    Key {
        name: "takeover_max",
        takes: ValueKind::Whole(0, COUNT),
        about: "Connections of a shard whose compressed messages may refer back to earlier ones (context takeover), which\n\
                takes 8 KB for each; further connections do without. It makes replies smaller, but not publications:\n\
                the server compresses those once for all subscribers.",
    },
];

const WHO: ValueKind = ValueKind::Word(&["nobody", "subscribers", "users", "anyone"]);

const NAMESPACE: &[Key] = &[
    Key {
        name: "history_size",
        takes: ValueKind::Whole(0, COUNT),
        about: "Publications that each topic keeps for new and reconnecting subscribers. 0: none.",
    },
    Key {
        name: "history_ttl_ms",
        takes: ValueKind::Whole(0, MANY),
        about: "Milliseconds that each of them is kept. 0: until newer ones take its place.",
    },
    Key {
        name: "history_bytes_max",
        takes: ValueKind::Whole(0, MANY),
        about: "Bytes of payload that each topic keeps.",
    },
    Key { name: "presence", takes: ValueKind::Switch, about: "Keep a list of each topic's subscribers, which clients can request." },
    Key { name: "join_leave", takes: ValueKind::Switch, about: "Send joins and leaves to subscribers that request them." },
    Key {
        name: "force_join_leave",
        takes: ValueKind::Switch,
        about: "Send joins and leaves to all subscribers, requested or not.",
    },
    Key {
        name: "subscribe",
        takes: ValueKind::Word(&["nobody", "users", "anyone", "backend"]),
        about: "Who may subscribe on any transport, besides clients whose token names the topic: nobody, users (clients
\
                with a token), anyone, or whom the backend permits (see [backend.subscribe]). Where [tokens] has a key, a
\
                namespace without this key is for users.",
    },
    Key {
        name: "publish",
        takes: ValueKind::Word(&["nobody", "subscribers", "users", "anyone", "backend"]),
        about: "Who may publish over a client's connection: nobody, subscribers of the topic, users, anyone, or whom the\n\
                backend permits: see [backend.publish].",
    },
    Key { name: "history", takes: WHO, about: "Who may read the history: nobody, subscribers, users or anyone." },
    Key {
        name: "presence_read",
        takes: WHO,
        about: "Who may request the list of subscribers: nobody, subscribers, users or anyone.",
    },
    Key {
        name: "cache_recovery",
        takes: ValueKind::Switch,
        about: "Send the newest publication alone to clients of Centrifugo's protocol that recover, also to those that\n\
                come for the first time with a position. Needs history_size.",
    },
    Key {
        name: "slow_consumer",
        takes: ValueKind::Word(&["close", "drop-oldest", "conflate"]),
        about: "What happens to a subscriber that reads more slowly than others publish: close disconnects it,\n\
                drop-oldest drops the oldest publications, conflate keeps only the newest of each key (or topic).\n\
                Slow event streams of several topics are always disconnected.",
    },
    Key {
        name: "outbox_bytes_max",
        takes: ValueKind::Whole(1, MANY),
        about: "Bytes that may wait for a subscriber before it is slow. As many more may wait of what it has missed,\n\
                of all its topics together.",
    },
    Key {
        name: "outbox_age_ms",
        takes: ValueKind::Whole(0, MANY),
        about: "Milliseconds that a publication may wait for a subscriber before it is slow. 0: without end.\n\
                With conflate: that news of a key (or topic) may wait, in whatever version, before it is disconnected.",
    },
    Key {
        name: "coalesce_ms",
        takes: ValueKind::Whole(0, COALESCE_MS_MAX as i64),
        about: "Milliseconds that publications may wait to leave together with others for the same connection: all of\n\
                the namespace leave at the same multiples of it. 0: they leave at once.",
    },
    Key {
        name: "deflate",
        takes: ValueKind::Switch,
        about: "Compress publications for clients that support it. Needs [deflate] enabled.",
    },
    Key {
        name: "delta",
        takes: ValueKind::Switch,
        about: "Send publications as deltas to the ones before, to clients of Centrifugo's protocol that request\n\
                delta = \"fossil\". For publications that change little. Not with keyed.",
    },
    Key {
        name: "tags_filter",
        takes: ValueKind::Switch,
        about: "Let clients of Centrifugo's protocol filter publications by their tags. Not with keyed.",
    },
    Key {
        name: "keyed",
        takes: ValueKind::Switch,
        about: "Keep the newest value of each key, which new subscribers receive first: see docs/state.md. Not with\n\
                drop-oldest, and not in a cluster.",
    },
    Key { name: "keys_max", takes: ValueKind::Whole(1, COUNT), about: "Keys of a keyed topic." },
    Key {
        name: "value_bytes_max",
        takes: ValueKind::Whole(0, PUBLISH_BYTES_MAX as i64),
        about: "Bytes of a value of a keyed topic.",
    },
    Key {
        name: "state_bytes_max",
        takes: ValueKind::Whole(0, MANY),
        about: "Bytes of all values of a keyed topic, with 256 for each.",
    },
    Key {
        name: "value_ttl_ms",
        takes: ValueKind::Whole(0, MANY),
        about: "Milliseconds after which a value of a keyed topic is removed that was not set again. 0: never.",
    },
];

const CENTRIFUGE: &[Key] = &[
    Key {
        name: "anonymous",
        takes: ValueKind::Switch,
        about: "Let clients in that have no token. They may do what their namespaces allow to anyone.",
    },
    Key {
        name: "message_bytes_max",
        takes: ValueKind::Whole(125, COUNT),
        about: "Bytes of one message from a client, which may hold several commands.",
    },
    Key {
        name: "token_grace_ms",
        takes: ValueKind::Whole(0, DAY_MS),
        about: "Milliseconds that a client whose token has expired may take to bring a new one.",
    },
    Key {
        name: "personal_channel",
        takes: ValueKind::Switch,
        about: "Subscribe each connection of a user to the channel #USER.",
    },
    Key {
        name: "personal_namespace",
        takes: ValueKind::Text,
        about: "The namespace of these channels. Empty: the default one.",
    },
];

const STOMP: &[Key] = &[
    Key {
        name: "message_bytes_max",
        takes: ValueKind::Whole(1024, 16 * 1024 * 1024),
        about: "Bytes of the body of a frame. message_bytes_max of [server] bounds frames on WebSockets, too.",
    },
    Key {
        name: "queues",
        takes: ValueKind::Word(&["spring", "broker"]),
        about: "What destinations below /queue are. spring: topics, as in Spring's simple broker. broker: queues in memory;\n\
                each message goes to one consumer, and to another one if that does not acknowledge it.",
    },
    Key {
        name: "queue_messages_max",
        takes: ValueKind::Whole(1, COUNT),
        about: "With queues = \"broker\": messages in a queue, those without an acknowledgement included. A SEND to a queue\n\
                that is full is an error.",
    },
];

const TOKENS: &[Key] = &[
    Key {
        name: "hmac_secret",
        takes: ValueKind::Text,
        about: "The secret of tokens that are signed with HS256, HS384 or HS512. Empty: there are none.",
    },
    Key {
        name: "rsa_public_key_file",
        takes: ValueKind::Path,
        about: "A file with a public key as PEM, for RS256 to RS512 and PS256 to PS512. Empty: none.",
    },
    Key {
        name: "ecdsa_public_key_file",
        takes: ValueKind::Path,
        about: "A file with a public key as PEM, for ES256 and ES384. Empty: none.",
    },
    Key {
        name: "jwks_file",
        takes: ValueKind::Path,
        about: "A file with a set of keys (RFC 7517), of which a token names its own by kid. Empty: none.",
    },
    Key {
        name: "jwks_url",
        takes: ValueKind::Text,
        about: "Where such a set is fetched, as \"https://login.example.com/.well-known/jwks.json\": when the server starts,\n\
                every jwks_refresh_ms, and when a token names an unknown key. Empty: nowhere.",
    },
    Key {
        name: "jwks_refresh_ms",
        takes: ValueKind::Whole(1_000, DAY_MS),
        about: "Milliseconds after which it is fetched again. While that fails, the keys stay.",
    },
    Key { name: "audience", takes: ValueKind::Text, about: "What tokens must name as aud. Empty: nothing." },
    Key { name: "issuer", takes: ValueKind::Text, about: "What tokens must name as iss. Empty: nothing." },
];

const API: &[Key] = &[
    Key {
        name: "key",
        takes: ValueKind::Text,
        about: "What each request to the control port must carry, as 'X-API-Key: KEY' or 'Authorization: Bearer KEY'.\n\
                Empty: nothing, and the control port must be on loopback.",
    },
    Key {
        name: "key_file",
        takes: ValueKind::Path,
        about: "A file with the key in its first line, instead. Empty: none.",
    },
    Key {
        name: "read_key",
        takes: ValueKind::Text,
        about: "A key for requests that change nothing: metrics, lists, histories, and the admin page without actions.\n\
                Empty: none.",
    },
    Key {
        name: "read_key_file",
        takes: ValueKind::Path,
        about: "A file with this key in its first line, instead. Empty: none.",
    },
];

const BACKEND_CALL: &[Key] = &[
    Key {
        name: "endpoint",
        takes: ValueKind::Text,
        about: "Where the calls are posted, as \"http://localhost:3000/centrifugo/connect\". Empty: there are none.",
    },
    Key {
        name: "timeout_ms",
        takes: ValueKind::Whole(1, BACKEND_TIMEOUT_MS_MAX as i64),
        about: "Milliseconds in which the whole answer must arrive. Without it the client receives the error 100, and may\n\
                try again.",
    },
    Key {
        name: "in_flight_max",
        takes: ValueKind::Whole(1, COUNT),
        about: "Calls without an answer. Further clients receive the error 111 at once, and may try again.",
    },
    Key {
        name: "headers",
        takes: ValueKind::HeaderNames,
        about: "Header fields of the client's handshake that the request contains, as [\"Cookie\", \"Authorization\"].",
    },
];

const EVENTS: &[Key] = &[
    Key {
        name: "endpoint",
        takes: ValueKind::Text,
        about: "Where events are posted, as \"http://localhost:3000/events\". Empty: nowhere.",
    },
    Key {
        name: "secret",
        takes: ValueKind::Text,
        about: "Signs each request in the header field X-Ringfeed-Signature. Empty: requests are not signed.",
    },
    Key { name: "types", takes: ValueKind::Words(&Event::NAMES), about: "Which events. An empty list: all." },
    Key { name: "batch_max", takes: ValueKind::Whole(1, 10_000), about: "Events in one request." },
    Key {
        name: "queue_max",
        takes: ValueKind::Whole(1, 10_000_000),
        about: "Events that wait, while requests fail. Further events are dropped, and counted.",
    },
    Key {
        name: "timeout_ms",
        takes: ValueKind::Whole(1, DAY_MS),
        about: "Milliseconds for the endpoint to respond with a status from 200 to 299.",
    },
    Key {
        name: "give_up_ms",
        takes: ValueKind::Whole(1, DAY_MS),
        about: "Milliseconds for which a request is repeated, with growing pauses. Then its events are dropped, and\n\
                counted.",
    },
];

const CLUSTER: &[Key] = &[
    Key { name: "enabled", takes: ValueKind::Switch, about: "Be a node of a cluster." },
    Key {
        name: "name",
        takes: ValueKind::Text,
        about: "The cluster's name: letters, digits, - and _. NATS servers may serve several clusters.",
    },
    Key { name: "node", takes: ValueKind::Text, about: "The node's name, for people. Empty: the host's." },
    Key {
        name: "servers",
        takes: ValueKind::Servers,
        about: "NATS servers. A node uses one, and others when it fails. With tls:// instead of nats:// in one of them,\n\
                TLS is required of all.",
    },
    Key {
        name: "credentials_file",
        takes: ValueKind::Path,
        about: "A file with credentials for the NATS servers (.creds), or with the seed of an nkey. Empty: none.",
    },
    Key { name: "user", takes: ValueKind::Text, about: "The user at the NATS servers. Empty: none." },
    Key { name: "password_file", takes: ValueKind::Path, about: "A file with the user's password. Empty: none." },
    Key { name: "token_file", takes: ValueKind::Path, about: "A file with a token for the NATS servers. Empty: none." },
    Key {
        name: "tls_ca_file",
        takes: ValueKind::Path,
        about: "A file with the certificates that NATS servers' certificates are from; TLS is required then. Empty: none.",
    },
    Key { name: "tls_cert_file", takes: ValueKind::Path, about: "The node's certificate. Empty: none." },
    Key { name: "tls_key_file", takes: ValueKind::Path, about: "Its key. Empty: none." },
    Key {
        name: "buckets",
        takes: ValueKind::Whole(1, CLUSTER_BUCKETS_MAX as i64),
        about: "Logs into which topics are divided, a stream each. Fixed as long as the streams exist.",
    },
    Key {
        name: "replicas",
        takes: ValueKind::Whole(1, 5),
        about: "Copies of each log. More than 1 needs as many NATS servers in one cluster.",
    },
    Key {
        name: "storage",
        takes: ValueKind::Word(&["file", "memory"]),
        about: "Where NATS keeps the logs. memory is faster, and a restart of all NATS servers begins new epochs.",
    },
    Key {
        name: "log_max_age_ms",
        takes: ValueKind::Whole(300_000, DAY_MS),
        about: "Milliseconds that records stay in a log: a node that was away longer joins anew.",
    },
    Key { name: "log_max_bytes", takes: ValueKind::Whole(1 << 20, MANY), about: "Bytes of each log." },
    Key {
        name: "publish_timeout_ms",
        takes: ValueKind::Whole(100, DAY_MS),
        about: "Milliseconds that a publisher waits for the log. An election among NATS servers takes some seconds.",
    },
    Key {
        name: "start_wait_ms",
        takes: ValueKind::Whole(100, DAY_MS),
        about: "Milliseconds that a node looks for others when it starts, before it begins new epochs.",
    },
];

/// All sections, in the order in which people are shown them.
pub(super) const SECTIONS: &[Section] = &[
    Section {
        path: &["listener"],
        is_list: true,
        about: "Data ports. Several [[listener]] are several ports of one server.",
        keys: LISTENER,
    },
    Section { path: &["tls"], is_list: false, about: "What all listeners with tls = true have in common.", keys: TLS },
    Section { path: &["server"], is_list: false, about: "Ports, bounds, and who may connect.", keys: SERVER },
    Section { path: &["keep_alive"], is_list: false, about: "Signs of life, in every protocol.", keys: KEEP_ALIVE },
    Section { path: &["deflate"], is_list: false, about: "permessage-deflate (RFC 7692).", keys: DEFLATE },
    Section {
        path: &["namespaces", ANY_NAME],
        is_list: false,
        about: "Topics, by what stands before the first colon of their name: [namespaces.chat] has chat:lobby, and\n\
                [namespaces.default] the topics without a colon. Where any other than the default is listed, topics of\n\
                namespaces that are not are refused; else all topics are in the default one. Each starts from the\n\
                defaults below.",
        keys: NAMESPACE,
    },
    Section {
        path: &["centrifuge"],
        is_list: false,
        about: "Centrifugo's client protocol, at /connection/websocket.",
        keys: CENTRIFUGE,
    },
    Section {
        path: &["stomp"],
        is_list: false,
        about: "STOMP, at /stomp and on listeners with protocol = \"stomp\".",
        keys: STOMP,
    },
    Section {
        path: &["tokens"],
        is_list: false,
        about: "JSON Web Tokens, with which clients say who they are, on every transport. Where there is a key, nobody\n\
                subscribes without a token, except to namespaces with subscribe = \"anyone\".",
        keys: TOKENS,
    },
    Section { path: &["api"], is_list: false, about: "Who may use the control port.", keys: API },
    Section {
        path: &["backend", "connect"],
        is_list: false,
        about: "The backend decides on connections without a token, as Centrifugo's connect proxy.",
        keys: BACKEND_CALL,
    },
    Section {
        path: &["backend", "refresh"],
        is_list: false,
        about: "The backend decides on connections that expire, as Centrifugo's refresh proxy; clients need not renew\n\
                their tokens then.",
        keys: BACKEND_CALL,
    },
    Section {
        path: &["backend", "subscribe"],
        is_list: false,
        about: "The backend decides on subscriptions in namespaces with subscribe = \"backend\", as Centrifugo's subscribe\n\
                proxy.",
        keys: BACKEND_CALL,
    },
    Section {
        path: &["backend", "sub_refresh"],
        is_list: false,
        about: "The backend decides on subscriptions of its own that expire, as Centrifugo's sub refresh proxy.",
        keys: BACKEND_CALL,
    },
    Section {
        path: &["backend", "publish"],
        is_list: false,
        about: "The backend decides on publications in namespaces with publish = \"backend\", as Centrifugo's publish\n\
                proxy.",
        keys: BACKEND_CALL,
    },
    Section {
        path: &["backend", "rpc"],
        is_list: false,
        about: "The backend answers calls of clients, as Centrifugo's RPC proxy.",
        keys: BACKEND_CALL,
    },
    Section {
        path: &["events"],
        is_list: false,
        about: "The application receives what happens to connections and topics.",
        keys: EVENTS,
    },
    Section {
        path: &["cluster"],
        is_list: false,
        about: "Several nodes with one order over NATS JetStream: see docs/cluster.md. All nodes need the same settings.",
        keys: CLUSTER,
    },
];

impl fmt::Display for ValueKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ValueKind::ListenAddress => f.write_str(
                "an IP address and a port, as \"127.0.0.1:8000\" or \"[::]:8000\", \"unix:PATH\" or \"fd:NAME\"",
            ),
            ValueKind::Mode => f.write_str("octal digits, as \"0660\", or \"\""),
            ValueKind::Certificates => {
                f.write_str("a list of pairs, as [{ cert_file = \"cert.pem\", key_file = \"key.pem\" }]")
            }
            ValueKind::Servers => f.write_str(
                "a list of addresses, as [\"tls://nats.example.com:4222\"]; set user and password_file for a password",
            ),
            ValueKind::Routes => f.write_str("a list of paths, as [\"/feed/\"]"),
            ValueKind::Switch => f.write_str("true or false"),
            ValueKind::Text => f.write_str("a text"),
            ValueKind::Path => f.write_str("the path of a file"),
            ValueKind::Word(words) => {
                f.write_str("one of ")?;
                for (index, word) in words.iter().enumerate() {
                    write!(f, "{}\"{word}\"", if index == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            ValueKind::Whole(min, MANY) => write!(f, "a whole number, at least {min}"),
            ValueKind::Whole(min, max) => write!(f, "a whole number from {min} to {max}"),
            ValueKind::WholeOrNone(min, max) => write!(f, "0, or a whole number from {min} to {max}"),
            ValueKind::Proxies => {
                f.write_str("a list of IP addresses and networks, as [\"192.0.2.1\", \"10.0.0.0/8\", \"unix:\"]")
            }
            ValueKind::Words(words) => {
                f.write_str("a list of ")?;
                f.write_str(&words.join(", "))
            }
            ValueKind::HeaderNames => f.write_str("a list of names of header fields, as [\"Cookie\"]"),
            ValueKind::Origins => f.write_str("a list of origins, as [\"https://*.example.com\"], or [\"*\"]"),
        }
    }
}
