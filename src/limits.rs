//! Every bound of the server, its unit and why it has that value.
//!
//! Imports nothing; anyone may read it. A bound that an operator can change is a *default* here and a field
//! of [`ServerConfig`](crate::server::ServerConfig) there.

/// Bytes of a frame header at most: 2, plus 8 of extended length, plus 4 of masking key (RFC 6455 §5.2).
pub const FRAME_HEADER_BYTES_MAX: usize = 14;

/// Payload bytes of a control frame at most (RFC 6455 §5.5).
pub const CONTROL_PAYLOAD_BYTES_MAX: usize = 125;

/// Bytes of an opening handshake, request line and headers together. Browsers send 400 to 800; cookies and
/// bearer tokens make the rest.
pub const HANDSHAKE_BYTES_MAX: usize = 8 * 1024;

/// Bytes of the request target in an opening handshake.
pub const REQUEST_TARGET_BYTES_MAX: usize = 2 * 1024;

/// Header fields of an opening handshake. Browsers send 12 to 20, proxies add a handful.
pub const HANDSHAKE_HEADERS_MAX: usize = 64;

/// Bytes of one message from a peer, whole, by default. Larger ones end the connection with 1009.
pub const MESSAGE_BYTES_MAX: u32 = 16 * 1024 * 1024;

/// How many times its compressed bytes a message may inflate to, once it is larger than [`INFLATE_FREE_BYTES`]. Deflate
/// itself goes to 1,032; text and JSON seldom pass 50.
pub const INFLATE_RATIO_MAX: usize = 200;

/// Bytes that a compressed message may inflate to whatever it was compressed to.
pub const INFLATE_FREE_BYTES: usize = 1024 * 1024;

/// Bytes of inflated messages whose memory a shard keeps at all times. That of larger ones it keeps for as long as
/// there are such.
pub const INFLATE_KEEP_BYTES: usize = 256 * 1024;

/// How far back the messages of a connection may refer, each way, where it takes context over: the base-2 logarithm of
/// that many bytes, which are kept for it. So 4 KB for what it was sent and 4 KB for what it has sent, each from the
/// first compressed message on: a handful of messages, and less than its socket takes.
pub const DEFLATE_CONTEXT_WINDOW_BITS: u8 = 12;

/// Bytes of a message from which on it is compressed, by default. Shorter ones seldom save a packet.
pub const DEFLATE_BYTES_MIN: usize = 128;

/// How hard to compress, by default: 1 to 9. A kilobyte of JSON takes 11 µs and shrinks to 318 bytes at level 2, 13 µs
/// and 311 at level 6; 16 KB take 59 and 388 µs. Level 1 halves the time, but leaves a quarter more to send to
/// everybody.
pub const DEFLATE_LEVEL: u8 = 2;

/// Bytes of a message that a subscriber of a raw feed sends, which is then told that feeds are read-only: there is no
/// reason to hold more for it.
pub const FEED_MESSAGE_BYTES_MAX: u32 = 4096;

/// Bytes of one message of commands in Centrifugo's protocol, by default; as many as Centrifugo takes.
pub const CENTRIFUGE_MESSAGE_BYTES_MAX: u32 = 64 * 1024;

/// Time for a client of Centrifugo's protocol to connect, in milliseconds: less than it has for the answer to a ping,
/// so that a slow one receives the code that lets it reconnect.
pub const CENTRIFUGE_STALE_MS: u64 = PONG_TIMEOUT_MS - 1_000;

/// How long a client whose token has expired may take to bring a new one, by default, in milliseconds: it asks its own
/// server for that.
pub const TOKEN_GRACE_MS: u64 = 25_000;

/// Listeners of a server: each has at least four of a shard's accepts.
pub const LISTENERS_MAX: usize = 16;

/// Bytes that a [`Framing`](crate::proto::Framing) may add to a payload: the server closes a connection whose message
/// is incomplete beyond its maximum size and these.
pub const FRAMING_BYTES_MAX: usize = 64;

/// Maximum bytes of the command and the header fields of a STOMP frame. Spring's decoder allows as many.
pub const STOMP_HEAD_BYTES_MAX: usize = 8 * 1024;

/// Maximum number of header fields of a STOMP frame.
pub const STOMP_HEADERS_MAX: usize = 64;

/// Maximum size of the body of a STOMP frame, in bytes: Spring's default.
pub const STOMP_BODY_BYTES_MAX: u32 = 64 * 1024;

/// Time for a client of STOMP to send CONNECT, in milliseconds.
pub const STOMP_CONNECT_MS: u64 = 10_000;

/// The most frequent heart-beats of STOMP, in milliseconds between two.
pub const STOMP_HEART_BEAT_MS_MIN: u64 = 1_000;

/// A client of STOMP is lost after this many of its heart-beats are missing: Spring's number.
pub const STOMP_HEART_BEATS_MISSED: u64 = 3;

/// Maximum open transactions of a STOMP connection.
pub const STOMP_TRANSACTIONS_MAX: usize = 16;

/// Maximum bytes that the open transactions of a STOMP connection hold.
pub const STOMP_TRANSACTION_BYTES_MAX: usize = 1024 * 1024;

/// Maximum queues of STOMP with competing consumers in a server.
pub const STOMP_QUEUES_MAX: usize = 10_000;

/// Messages in a queue of STOMP at most, by default.
pub const STOMP_QUEUE_DEPTH: usize = 10_000;

/// Bytes that the messages of all queues of STOMP have together, at most.
pub const STOMP_QUEUE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Messages that a consumer of a STOMP queue may have without an acknowledgement, by default, if it acknowledges.
pub const STOMP_PREFETCH: usize = 100;

/// The same at most, as the client requests it by `prefetch-count`.
pub const STOMP_PREFETCH_MAX: usize = 1_000;

/// Pause before messages of a STOMP queue are offered again to consumers that have taken no more, in milliseconds.
pub const STOMP_QUEUE_RETRY_MS: u64 = 1_000;

/// Maximum requests of a STOMP connection that wait for an answer of a home shard; further frames stay unread.
pub const STOMP_REQUESTS_MAX: usize = 64;

/// Maximum bytes of a subscription id, a transaction id or a receipt id of STOMP.
pub const STOMP_ID_BYTES_MAX: usize = 255;

/// Seconds that a poll waits for a publication if its client does not say.
pub const POLL_WAIT_S: u64 = 25;

/// At most: proxies end silent requests after a minute or more.
pub const POLL_WAIT_S_MAX: u64 = 60;

/// Bytes of a TLS record's content (RFC 8446 §5.1).
pub const TLS_FRAGMENT_BYTES_MAX: usize = 16 * 1024;

/// Bytes of a TLS record with its header (RFC 8446 §5.2): what a connection holds of one that has not come whole.
pub const TLS_RECORD_BYTES_MAX: usize = 5 + TLS_FRAGMENT_BYTES_MAX + 256;

/// Bytes that a client may send before its TLS handshake is over. A first message with a ticket, a key share that
/// withstands quantum computers and much else is some 3 KB.
pub const TLS_HANDSHAKE_BYTES_MAX: usize = 32 * 1024;

/// Bytes of the subject of a client's certificate, as text.
pub const TLS_SUBJECT_BYTES_MAX: usize = 512;

/// Seconds for which a session ticket under a key of a file is good: as long as one under a random key.
pub const TLS_TICKET_SECONDS: u32 = 12 * 3600;

/// Keys for session tickets in a file.
pub const TLS_TICKET_KEYS_MAX: usize = 16;

/// TLS records in succession without data: empty ones, new keys, warnings.
pub const TLS_EMPTY_RECORDS_MAX: u8 = 32;

/// Records that a connection sends under one key: half of what AES-GCM stands (RFC 8446 §5.5).
pub const TLS_KEY_RECORDS: u64 = 1 << 23;

/// Time of a turn that a shard spends on TLS handshakes, in microseconds, if more wait: each takes 100 to 1,000.
pub const TLS_HANDSHAKE_SLICE_US: u64 = 1_000;

/// Bytes that are made records of at once: of the backlog of one connection, or of a fan-out to many. They stay in the
/// CPU's cache.
pub const TLS_SEND_BYTES: usize = 64 * 1024;

/// Routes of a server: a connection keeps its own in a byte.
pub const ROUTES_MAX: usize = 256;

/// Shards of a server: more than that has not been tried, and each pair of them has a queue.
pub const SHARDS_MAX: u16 = 1024;

/// Connections that can be let in each second, when that is bounded: more than any machine has.
pub const HANDSHAKES_PER_SECOND_MAX: u64 = 10_000_000;

/// The longest time that a timer of connections can be set to, in milliseconds: a day.
pub const DURATION_MS_MAX: u64 = 24 * 60 * 60 * 1000;

/// Bytes of a topic's name.
pub const TOPIC_NAME_BYTES_MAX: usize = 255;

/// Topics that one connection may subscribe to, unless the server is configured otherwise.
pub const CONN_TOPICS: usize = 128;

/// The most that a server may be configured for: some operations look through a connection's list.
pub const CONN_TOPICS_MAX: usize = 4096;

/// Commands that the handlers of one connection may give before its further messages wait for the next turn: what the
/// shard must do for one connection in a turn is bounded.
pub const INPUT_COMMANDS_MAX: usize = 64;

/// Payload bytes of its history that a topic keeps, by default.
pub const HISTORY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Payload bytes of the histories of all topics whose home is one shard. Past that the oldest of whatever topic is
/// published to next make room.
pub const HOME_HISTORY_BYTES_MAX: usize = 1024 * 1024 * 1024;

/// How long a subscribe request waits at its topic's home for a position that the node has not read from the log of its
/// cluster, in milliseconds. A node that runs is behind another one by far less.
pub const AHEAD_MS_MAX: u64 = 2000;

/// Subscribe requests of a home that wait so.
pub const AHEAD_REQUESTS_MAX: usize = 4096;

/// Maximum publications that a reconnecting subscriber recovers; with more missed, the server reports a loss.
pub const RECOVERY_PUBLICATIONS_MAX: usize = 300;

/// Catch-ups of one shard that other shards are answering, at most, while answers are small: enough for 10,000
/// reconnects a second where an answer takes 10 ms.
pub const CATCH_UPS_IN_PROGRESS_MAX: usize = 256;

/// The same while answers are large, of up to [`OUTBOX_BYTES_MAX`] each.
pub const CATCH_UPS_IN_PROGRESS_MIN: usize = 4;

/// Bytes of missed publications that a shard encodes in one turn before it begins no further catch-up: some 100
/// microseconds.
pub const CATCH_UP_TURN_BYTES: usize = 256 * 1024;

/// Keys of a keyed topic, by default.
pub const STATE_KEYS_MAX: usize = 10_000;

/// Bytes of a value of a keyed topic, by default.
pub const STATE_VALUE_BYTES_MAX: usize = 64 * 1024;

/// Bytes of all values of a keyed topic, by default, with [`STATE_ENTRY_BYTES`] for each.
pub const STATE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes of the values and removals of all keyed topics whose home is one shard. Past that new values are rejected.
pub const HOME_STATE_BYTES_MAX: usize = 1024 * 1024 * 1024;

/// Bytes that a value or a removal takes besides its text.
pub const STATE_ENTRY_BYTES: usize = 256;

/// Publications of one page of a state, and their bytes, unless a single one has more: some hundred microseconds of
/// encoding, once for all who read the page.
pub const STATE_PAGE_KEYS: usize = 1000;
/// See [`STATE_PAGE_KEYS`].
pub const STATE_PAGE_BYTES: usize = 64 * 1024;

/// Milliseconds for which readers share a page. Within that, publications may replace what is in it: the reader
/// receives both.
pub const STATE_PAGE_MS: u64 = 100;

/// Pages of a topic that readers share.
pub const STATE_PAGES_MAX: usize = 256;

/// Keys that a home shard removes in one turn since they have expired.
pub const STATE_EXPIRIES_PER_TURN: usize = 256;

/// Publications that one request for a history is answered with at most.
pub const HISTORY_ANSWER_MAX: usize = 1000;

/// Bytes of the publications, payloads and what is known of them, that a client's request for a history is answered
/// with at most, or one publication: it asks for the next page. Some hundred microseconds of encoding.
pub const HISTORY_PAGE_BYTES: usize = 64 * 1024;

/// Bytes of an answer that says who is present; a larger one is refused. Ten thousand subscribers with a short
/// description each fit.
pub const PRESENCE_ANSWER_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Bytes of the publications, payloads and what is known of them, that a client of Centrifugo's protocol recovers in
/// all channels that its token subscribes it to: they come in one message.
pub const CONNECT_RECOVERY_BYTES_MAX: usize = OUTBOX_BYTES_MAX;

/// What the commands of a client of Centrifugo's protocol may cost in one turn, and those that wait for answers. A
/// command costs 2, one with a token 16: they take some microseconds. Nothing costs more than all.
pub const COMMANDS_COST_MAX: u32 = 64;

/// Subscribers that the presence of one topic keeps; it is for rooms, not for crowds.
pub const PRESENCE_MAX: usize = 10_000;

/// How long it is remembered that a publication was made under an idempotency key, in milliseconds: longer than any
/// publisher tries again.
pub const IDEMPOTENCY_TTL_MS: u64 = 5 * 60 * 1000;

/// Bytes of memory for the idempotency keys that one home shard remembers. A publication whose key would pass it is
/// refused. Keys of 36 bytes fit 588,000 times: some 1,900 publications a second without a pause.
pub const IDEMPOTENCY_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Bytes that each of these counts as besides its text: the entry and its places in the map and the queue.
pub const IDEMPOTENCY_OVERHEAD_BYTES: usize = 192;

/// Bytes of an idempotency key, or of a publication's key.
pub const KEY_BYTES_MAX: usize = 255;

/// How long a topic that nobody subscribes to and that keeps nothing is remembered after its last publication, in
/// milliseconds. Its next life is another epoch.
pub const TOPIC_IDLE_MS: u64 = 60 * 60 * 1000;

/// Topics that a home shard looks at in one turn of the sweep that forgets what is too old, at least.
pub const SWEEP_TOPICS: usize = 1000;

/// Turns in which the sweep looks at all topics, however many there are. A million of them are 17,000 in a turn, which
/// take about a millisecond.
pub const SWEEP_TURNS: usize = 60;

/// Idempotency keys that have ended and that one turn of the sweep forgets.
pub const SWEEP_KEYS: usize = 10_000;

/// Pause between two such looks, in milliseconds.
pub const SWEEP_INTERVAL_MS: u64 = 1000;

/// Microseconds of a turn that go to the fan-out of each lane. The rest follows in the next turn, so receives,
/// answers to publishers, timers and other shards' parcels wait no longer than two such slices, and a turn of its own
/// costs a fan-out less than a hundredth of one.
pub const FAN_OUT_SLICE_US: u64 = 500;

/// Sends of a fan-out that are submitted together, some 150 microseconds of work. The clock is looked at between them.
/// 64 to 512 for each system call measure alike.
pub const FAN_OUT_BATCH_SENDS: usize = 64;

/// Bytes of publications of several topics that are joined for one send. The kernel copies them once more, so this
/// costs less than the send that it saves.
pub const FAN_OUT_JOIN_BYTES: usize = 64 * 1024;

/// Subscribers on a shard of a topic that takes the express lane, at most: as many as one system call sends to.
pub const EXPRESS_SUBSCRIBERS_MAX: usize = 64;

/// Milliseconds that publications may wait to leave together with others, at most.
pub const COALESCE_MS_MAX: u64 = 1000;

/// Bytes of a topic's publications that wait to leave together with others. With more, they leave at once.
pub const COALESCE_BYTES_MAX: usize = 64 * 1024;

/// Bytes of a publication that can be sent as a delta to the one before, at most, and of the one before. A delta of
/// that size takes less than a millisecond, once for all subscribers.
pub const DELTA_BYTES_MAX: usize = 128 * 1024;

/// Bytes of a filter of publications, as a client sends it.
pub const FILTER_BYTES_MAX: usize = 2048;

/// Conditions and combinations in a filter.
pub const FILTER_NODES_MAX: usize = 32;

/// Combinations within each other in a filter, with the condition.
pub const FILTER_DEPTH_MAX: usize = 8;

/// Different filters of the subscribers of a topic on a shard. Each is evaluated once for each publication, which takes
/// some microseconds at worst, with the longest tags.
pub const TOPIC_FILTERS_MAX: usize = 128;

/// Bytes of the newest publications that a shard keeps for deltas, of topics whose subscribers receive deltas.
/// Publications after those beyond that leave whole.
pub const DELTA_BASES_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes that the kernel takes for a connection and has not sent yet (`TCP_NOTSENT_LOWAT`), by default. Bytes
/// beyond that stay in the server's backlog, where they can still be dropped or conflated.
pub const SOCKET_NOTSENT_BYTES: u32 = 128 * 1024;

/// Topics with publications whose order one home shard keeps. About 150 bytes each.
pub const HOME_TOPICS_MAX: usize = 1_000_000;

/// Topics with subscribers on one shard. About 500 bytes each, with what their home keeps of them: a topic without
/// publications is kept only as long as it has subscribers, and takes no place from those with publications.
pub const SHARD_TOPICS_MAX: usize = 1_000_000;

/// Numbers from which a home shard makes epochs. A topic's epoch changes when the shard has forgotten a topic with
/// publications that has the same number: the topic itself, or one in so many others.
pub const EPOCH_NUMBERS: usize = 4096;

/// Time over which a shard closes the connections of subscribers that may have missed publications, in milliseconds.
pub const GAP_SPREAD_MS: u64 = 5000;

/// Parcels in the queue from one shard, or from the control plane, to a shard, at most.
pub const MESH_QUEUE_PARCELS: usize = 4096;

/// Parcels that there is room for in all queues to one shard: a hundred shards have ten thousand queues, of which each
/// then takes some kilobytes.
pub const MESH_SHARD_PARCELS: usize = 16 * 1024;

/// Parcels in such a queue at least, however many shards there are.
pub const MESH_QUEUE_PARCELS_MIN: usize = 64;

/// Parcels that may wait for room in such a queue before a shard refuses publications, subscriptions and questions.
pub const MESH_BACKLOG_PARCELS_MAX: usize = 64 * 1024;

/// Bytes of the parcels that one shard, or the control plane, has sent to a shard and that it has not taken, before
/// more are refused. Payloads count in full, though the shards share those of deliveries.
pub const MESH_LINK_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Questions, subscriptions and publications of a shard's connections that other shards have not answered, before more
/// are refused. Answers are never refused, so this bounds those that wait.
pub const MESH_REQUESTS_MAX: usize = 64 * 1024;

/// Pause before such parcels are tried again where a shard has nothing else to do, in milliseconds. The queue
/// holds more than is delivered in that time.
pub const MESH_RETRY_MS: u64 = 1;

/// Parcels that a shard takes from one queue at once, so that a turn stays short whatever is published. The queues for
/// subscriptions, which a turn empties, hold no more.
pub const MESH_PARCELS_PER_TURN: usize = 1024;

/// Payload bytes of one publication through the control port. To push files, push their addresses.
pub const PUBLISH_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of a request to the server API, which may hold many publications, each of [`PUBLISH_BYTES_MAX`] at most.
pub const API_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Requests of one broadcast or parallel batch that are on their way to the shards at once: a part of
/// [`MESH_QUEUE_PARCELS`], so that one publisher does not fill the queues alone.
pub const API_PARALLEL_MAX: usize = 1024;

/// Maximum topics or connections in one page of a list.
pub const LIST_ROWS_MAX: usize = 1000;

/// Topics or connections that a shard looks at in one turn for a page of a list: some hundred microseconds.
pub const LIST_VISITS: usize = 4096;

/// Connections whose address a shard asks the kernel for in one turn for a page of a list: some hundred microseconds.
pub const LIST_ADDRESSES: usize = 128;

/// Milliseconds after which a search through topics or connections answers with what it has found so far, and where to
/// go on.
pub const LIST_SEARCH_MS: u64 = 300;

/// Topics of a connection in a list of connections.
pub const LIST_TOPICS: usize = 16;

/// Bytes of a pattern of topics, and of the other texts of a search.
pub const TOPIC_PATTERN_BYTES_MAX: usize = 255;

/// Bytes of the body of a request of the admin page.
pub const ADMIN_BODY_BYTES_MAX: usize = 16 * 1024;

/// Seconds for which a token of the admin page is valid; the page renews it.
pub const ADMIN_TOKEN_S: u64 = 60;

/// The server's figures, one each second, that their topic keeps: ten minutes.
pub const STATS_HISTORY_SIZE: usize = 600;

/// Milliseconds for which it keeps them, also of a server that has paused.
pub const STATS_HISTORY_TTL_MS: u64 = 660_000;

/// Maximum connections in a list of the slowest.
pub const SLOWEST_MAX: usize = 1000;

/// Bytes of a publication's tags, names and values together.
pub const TAGS_BYTES_MAX: usize = 4096;

/// Bytes of a line in a stream of publications: base64 of [`PUBLISH_BYTES_MAX`] takes a third more, and key and tags
/// fit besides.
pub const STREAM_LINE_BYTES_MAX: usize = 2 * PUBLISH_BYTES_MAX;

/// Bytes of a frame in a stream of publications, after its length: flags, two lengths, topic, key and payload.
pub const STREAM_FRAME_BYTES_MAX: usize = 4 + 255 + KEY_BYTES_MAX + PUBLISH_BYTES_MAX;

/// Records of one stream of publications without an acknowledgement. At 300,000 records a second they cover 14 ms.
pub const STREAM_RECORDS_MAX: usize = 4096;

/// Bytes of these records after which a stream reads no further record.
pub const STREAM_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Milliseconds that a stream holds a record while the shard's queue is full, before it refuses the record.
pub const STREAM_BUSY_MS: u64 = 5_000;

/// Milliseconds that a stream of publications may be silent between two records: publishers keep one open for hours.
pub const STREAM_IDLE_MS: u64 = 300_000;

/// Connections to the control port at once that have shown the key, or need none: publishers, scrapers. Later ones wait
/// in the listener's backlog.
pub const CONTROL_CONNECTIONS_MAX: usize = 1024;

/// Connections to the control port at once that have not shown the key: probes, those that are about to show it, and
/// all others that can reach the port. Newer ones take the place of the oldest. Each holds a request's head at most, so
/// that all hold 8 MiB.
pub const CONTROL_NO_KEY_CONNECTIONS_MAX: usize = 512;

/// Of these, with one IPv4 address or in one IPv6 network of 64 bits: an eighth, so that it takes eight addresses to
/// displace those of others.
pub const CONTROL_NO_KEY_PER_ADDRESS_MAX: usize = 64;

/// Milliseconds that a connection to the control port has for its first request, and after each further one, while it
/// has not shown the key. As long as an opening handshake on the data port.
pub const CONTROL_NO_KEY_MS: u64 = 10_000;

/// Milliseconds that a connection to the control port may rest between two requests, or take to send a request's head,
/// once it has shown the key or where there is none. As long as the usual HTTP servers, so that publishers with
/// connection pools seldom find theirs closed.
pub const CONTROL_HEAD_MS: u64 = 75_000;

/// Milliseconds in which a client of the control port must read [`CONTROL_OUTPUT_BYTES`] of its answers: two kilobytes
/// a second, which any line carries.
pub const CONTROL_SEND_MS: u64 = 30_000;

/// Milliseconds that the body of a publication may take to come.
pub const CONTROL_BODY_MS: u64 = 30_000;

/// Bytes of the head of a request to the control port. Bearer tokens and tracing headers fit four times over.
pub const CONTROL_HEAD_BYTES_MAX: usize = 16 * 1024;

/// Bytes of small frames that an outbox joins into one send. Past this the cost per byte outweighs that per send.
pub const OUTBOX_RUN_BYTES: usize = 64 * 1024;

/// Bytes that one connection to the control port has read and not used: pipelined requests, and a part of a body.
pub const CONTROL_INPUT_BYTES: usize = 64 * 1024;

/// Bytes of answers on one connection to the control port after which they leave, though more requests are there
/// already.
pub const CONTROL_OUTPUT_BYTES: usize = 64 * 1024;

/// Milliseconds in which the keys of tokens must come from their URL.
pub const JWKS_FETCH_MS: u64 = 5_000;

/// Bytes of a set of keys (RFC 7517) from a URL: hundreds of keys.
pub const JWKS_BYTES_MAX: usize = 256 * 1024;

/// Keys in such a set, from a URL or a file.
pub const JWKS_KEYS_MAX: usize = 256;

/// Milliseconds after a fetch in which tokens with unknown keys do not cause another one.
pub const JWKS_FRESH_MS: u64 = 10_000;

/// Milliseconds until a failed fetch is repeated; they double with each failure.
pub const JWKS_BACKOFF_MS: u64 = 500;

/// At most.
pub const JWKS_BACKOFF_MS_MAX: u64 = 60_000;

/// Milliseconds that our client gives a server to resolve, connect and answer the opening handshake.
pub const CLIENT_CONNECT_MS: u64 = 10_000;

/// Milliseconds that our client waits for the other half of a closing handshake, and for the end of the stream.
pub const CLIENT_CLOSE_MS: u64 = 5_000;

/// Milliseconds that our client waits at most before its second attempt to connect; each further one may wait twice
/// as long.
pub const CLIENT_RETRY_FIRST_MS: u64 = 500;

/// Milliseconds that our client waits at most before any attempt to connect.
pub const CLIENT_RETRY_MAX_MS: u64 = 30_000;

/// Milliseconds after which a connection without a message counts as good: our client's next wait is short again.
pub const CLIENT_SETTLED_MS: u64 = 5_000;

/// Bytes of a response that rejects our client's handshake of which its error shows the text.
pub const CLIENT_REFUSAL_BYTES_MAX: usize = 1024;

/// Milliseconds that our client waits for the rest of such a response.
pub const CLIENT_REFUSAL_MS: u64 = 1_000;

/// Bytes of a response of a control port to our client: metrics of many shards, or a page of connections.
pub const CONTROL_RESPONSE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes that our client reads at once.
pub const CLIENT_READ_BYTES: usize = 64 * 1024;

/// Log lines of one kind that clients can cause at once.
pub const LOG_LINES_BURST: u64 = 10;

/// Milliseconds after which they can cause another one.
pub const LOG_LINE_MS: u64 = 1_000;

/// Topics of a connection that a log line names.
pub const LOG_TOPICS_MAX: usize = 5;

/// Log lines that wait for standard error; more are left out.
pub const LOG_WAITING_MAX: usize = 1024;

/// Connections that a shard has room for beyond its share, to tell them that they are too many.
pub const SPARE_DESCRIPTORS: u32 = 64;

/// Receive buffers of a shard at most; together with [`RECV_BUFFER_BYTES`] 4 MiB. It begins with one in 64 of
/// them, and uses more once all were full at the same time.
pub const RECV_BUFFERS: u16 = 64;

/// Bytes of a receive buffer. Many small receives lie side by side in one.
pub const RECV_BUFFER_BYTES: u32 = 64 * 1024;

/// Pause before a shard looks again for receive buffers when all of them are in use, in milliseconds.
pub const RECV_SCARCE_PAUSE_MS: u64 = 1;

/// Bytes of replies that are collected before they are sent, within a turn.
pub const REPLIES_BYTES: usize = 256 * 1024;

/// Bytes that may wait in an outbox, by default, before a publication more makes its reader a slow consumer. What the
/// reader has missed and catches up on does not count: that may be as many bytes again.
pub const OUTBOX_BYTES_MAX: usize = 1024 * 1024;

/// Bytes that wait in an outbox before a connection that is to get a reply more is no longer read, until half of them
/// have left. So a peer that sends and does not read is held back by its own socket.
pub const RECV_PAUSE_BYTES: usize = 256 * 1024;

/// Bytes that the handles of a connection may have sent and the connection has not, at most: as much as may be queued
/// for a subscriber by default.
pub const HANDLE_BYTES_MAX: usize = 1024 * 1024;

/// Time for the answer of the backend to a call, by default, in milliseconds.
pub const BACKEND_TIMEOUT_MS: u64 = 1_000;

/// The longest such time that can be set, in milliseconds: the server does not read from a client whose command waits
/// for the backend, and pings go unanswered meanwhile.
pub const BACKEND_TIMEOUT_MS_MAX: u64 = 10_000;

/// Time that a connection gives its call beyond the backend's own timeout, in milliseconds: the answer may wait for a
/// busy shard.
pub const BACKEND_SLACK_MS: u64 = 1_000;

/// Calls of a kind without an answer, by default, at most.
pub const BACKEND_IN_FLIGHT: u32 = 1_000;

/// Maximum size of the backend's answer to a call, in bytes: as much as a publication may have.
pub const BACKEND_ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Maximum size of the head of the backend's response, in bytes.
pub const BACKEND_HEAD_BYTES_MAX: usize = 16 * 1024;

/// Time after which an idle connection to the backend is not used again, in milliseconds: common servers end theirs
/// after five seconds, and a request that crosses that is lost.
pub const BACKEND_IDLE_MS: u64 = 4_000;

/// Seconds after which the backend is called again about an expired connection or subscription, if it had no answer.
pub const BACKEND_RETRY_S: u64 = 60;

/// Events in a request to the application, by default, at most.
pub const EVENT_BATCH: u32 = 100;

/// Events that wait for the application, by default, at most: a minute of a thousand connections a second and their
/// ends.
pub const EVENT_QUEUE: u32 = 100_000;

/// Approximate bytes of these events, at most.
pub const EVENT_QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Time for the application to take a request with events, by default, in milliseconds.
pub const EVENT_TIMEOUT_MS: u64 = 5_000;

/// Time for which a request with events is repeated, by default, in milliseconds.
pub const EVENT_GIVE_UP_MS: u64 = 300_000;

/// Pause before a request with events is repeated first, in milliseconds. It doubles each time.
pub const EVENT_RETRY_FIRST_MS: u64 = 100;

/// The longest such pause, in milliseconds.
pub const EVENT_RETRY_MS_MAX: u64 = 10_000;

/// Time for which a server that stops waits for the application to take the last events, in milliseconds.
pub const EVENT_FLUSH_MS: u64 = 5_000;

/// Messages of one client in a second at most with `--demo`, unless the operator sets a limit: a page that draws sends
/// some twenty.
pub const DEMO_MESSAGES_PER_SECOND_MAX: u32 = 200;

/// Maximum sessions of SockJS's HTTP transports in a server.
pub const SOCKJS_SESSIONS_MAX: usize = 10_000;

/// Maximum bytes of the server's and the session's segment in a path of SockJS.
pub const SOCKJS_SEGMENT_BYTES_MAX: usize = 128;

/// Maximum size of a request with messages of SockJS, in bytes: a STOMP frame, in which JSON escapes characters.
pub const SOCKJS_BODY_BYTES_MAX: usize = 2 * (STOMP_HEAD_BYTES_MAX + STOMP_BODY_BYTES_MAX as usize);

/// Bytes of requests that may wait for a session of SockJS to read them, at most.
pub const SOCKJS_UNREAD_BYTES_MAX: usize = 4 * SOCKJS_BODY_BYTES_MAX;

/// Bytes of frames that a session of SockJS keeps for its next request, before it stops reading the conversation.
pub const SOCKJS_UNSENT_BYTES: usize = 64 * 1024;

/// Maximum size of a frame of SockJS in bytes: a message of the server's default maximum, escaped.
pub const SOCKJS_FRAME_BYTES_MAX: u32 = 64 * 1024 * 1024;

/// Time without a request that waits for frames after which a session of SockJS ends, in milliseconds.
pub const SOCKJS_RECEIVER_MS: u64 = 5_000;

/// Bytes of frames after which a streaming response of SockJS ends, so that browsers can free them.
pub const SOCKJS_RESPONSE_BYTES: usize = 128 * 1024;

/// Bytes before the first frame of a streaming response of SockJS: older browsers show nothing below that.
pub const SOCKJS_PRELUDE_BYTES: usize = 2048;

/// Pause before a frame of SockJS is offered again to a response that takes no more, in milliseconds.
pub const SOCKJS_RETRY_MS: u64 = 20;

/// Maximum size of the body of a request with commands, in bytes.
pub const EMULATION_BYTES_MAX: usize = CENTRIFUGE_MESSAGE_BYTES_MAX as usize;

/// Bytes of commands that may wait for those before, on a stream, at most: its server can't stop to read them.
pub const EMULATION_UNREAD_BYTES_MAX: usize = 4 * EMULATION_BYTES_MAX;

/// Pause before a reply of another thread to a handler is sent again when the shard's queue was full, in milliseconds.
pub const HANDLE_RETRY_MS: u64 = 2;

/// How often such a reply is sent again, at most: a shard that is behind for so long has other troubles, and the
/// request times out.
pub const HANDLE_RETRY_TIMES: u32 = 500;

/// Time for an opening handshake to come whole, by default, in milliseconds.
pub const HANDSHAKE_TIMEOUT_MS: u64 = 10_000;

/// Encodings of pushes in a process: two of the server, and one for each that a protocol registers.
pub const ENCODINGS_MAX: usize = 32;

/// Forms of pings in a process that protocols register.
pub const HEARTBEATS_MAX: usize = 32;

/// Bytes of a connection's slot on its shard.
pub const SLOT_BYTES: usize = 168;

/// Bytes of all else that an idle connection with one subscription holds in user space: the generation of its slot (4),
/// its timer and an outdated one (16), and its place among a topic's subscribers (at most 8 where they are many).
pub const CONN_OTHER_BYTES: usize = 28;

/// Bytes of user space for each idle connection with one subscription.
pub const CONN_USER_BYTES: usize = SLOT_BYTES + CONN_OTHER_BYTES;

const _: () = assert!(CONN_USER_BYTES <= 200, "the budget of a connection");

/// Bytes of the kernel's memory for each idle connection: the socket and the poll that waits on it.
pub const CONN_KERNEL_BYTES: usize = 4_300;

/// Silence after which a peer is pinged, by default, in milliseconds. Below the 30 to 60 seconds after which common
/// proxies give a connection up.
pub const PING_INTERVAL_MS: u64 = 25_000;

/// Time to answer a ping, by default, in milliseconds.
pub const PONG_TIMEOUT_MS: u64 = 10_000;

/// Time for the peer to answer our Close frame, in milliseconds.
pub const CLOSE_TIMEOUT_MS: u64 = 5_000;

/// Time for the peer to end its half of the stream after we have ended ours, in milliseconds. Closing at once would
/// reset the connection if anything was left unread, and the peer might never see the Close frame.
pub const LINGER_MS: u64 = 2_000;

/// Time for all peers to answer their Close frames when the server stops, by default, in milliseconds.
pub const DRAIN_TIMEOUT_MS: u64 = 5_000;

/// Time between the order to stop and the first goodbye, in milliseconds: what was published before gets to all shards.
/// Until it has gone to all their subscribers, too, they wait on, but no longer than for answers to Close frames.
pub const DRAIN_SETTLE_MS: u64 = 100;

/// Time for which a shard that is done stays for the others to take what it has sent them, in milliseconds: a thousand
/// times longer than a shard that runs takes for it.
pub const DRAIN_HANDOVER_MS: u64 = 1_000;

/// How long an `EventSource` waits before it comes back, at least, in milliseconds.
pub const SSE_RETRY_MS: u64 = 1000;

/// And how much longer it may wait, so that not all come back at once, in milliseconds.
pub const SSE_RETRY_SPREAD_MS: u64 = 4000;

/// Resolution of timers, in milliseconds.
pub const TICK_MS: u64 = 50;

/// Pieces that must come on a connection in quick succession before the kernel keeps a receive armed for it.
pub const RECV_BUSY_PIECES: u8 = 4;

/// Milliseconds between two pieces that still are in quick succession.
pub const RECV_BUSY_GAP_MS: u64 = 1_000;

/// Bytes that a shard reads in one turn from all connections with unread input together: however many clients send as
/// fast as they can, the other connections wait no longer than these bytes take. A client that sends a piece of as many
/// bytes becomes one of them.
pub const RECV_TURN_BYTES: u32 = 8 * 1024;

/// Maximum number of such connections that a shard reads in one turn. The others wait for the next.
pub const RECV_TURN_CONNS: usize = 4;

/// Connections whose messages have waited that go on in one turn. The others wait for theirs.
pub const RESUME_TURN_CONNS: usize = 4;

/// Silence after which a connection waits on a poll again, in milliseconds. It is looked for when the connection's
/// timer fires anyway, so it may take as long as the ping interval more.
pub const RECV_QUIET_MS: u64 = 10_000;

/// Milliseconds for which connections must arrive faster than the shard accepts them before it rejects some with 503.
/// Until then they wait, which most clients do for longer.
pub const SHED_AFTER_MS: u64 = 2_000;

/// Maximum `Retry-After`, in seconds, of a connection rejected with 503.
pub const RETRY_AFTER_SECONDS: u64 = 10;

/// Pause before accepting again when the kernel had no room for a connection, in milliseconds.
pub const ACCEPT_RETRY_MS: u64 = 200;

/// Bytes of a proxy's response to a client that requests a tunnel.
pub const PROXY_RESPONSE_BYTES_MAX: usize = 8 * 1024;

/// How long a reload waits for shards with full queues, in milliseconds. The control plane serves nobody meanwhile.
pub const RELOAD_PATIENCE_MS: u64 = 1_000;

/// How long a slice of the control plane's thread is, in microseconds: as short as the kernel lets it be. It has little
/// to do for each request, and shares its CPU with a shard, which may run for some milliseconds.
pub const CONTROL_SLICE_US: u64 = 100;

/// Connections that the kernel keeps for a shard until they are accepted (the kernel caps it at `net.core.somaxconn`).
pub const ACCEPT_BACKLOG: i32 = 4096;

/// Seconds for which the kernel keeps a connection to itself that has not sent anything yet. Clients send their request
/// at once, so that it is there when the connection is accepted: a sixth of the CPU time of a handshake less.
pub const ACCEPT_DEFER_SECONDS: u16 = 1;

/// Time in which a port that is taken may become free when the server starts, in milliseconds. A process that was
/// killed keeps its ports until the kernel has taken its rings apart: 0.1 to 0.25 seconds with a dozen connections.
pub const LISTEN_PATIENCE_MS: u64 = 1_000;

/// Time that a segment may stay unacknowledged before the kernel gives a peer up (`TCP_USER_TIMEOUT`), in milliseconds.
pub const TCP_USER_TIMEOUT_MS: u64 = 30_000;

/// How often, in one turn, publishers that were answered are let run to publish more, before the fan-out goes on. Each
/// takes some ten microseconds where they share the shard's CPU, and less than one where they do not.
pub const PUBLISHER_ROUNDS_MAX: usize = 32;

/// Milliseconds after a request of the control plane for which a shard lets it run between two slices of a fan-out: the
/// publisher may wait for a CPU that both share.
pub const PUBLISHER_RECENT_MS: u64 = 100;

/// Topics with publications that one bucket of a cluster keeps; the one that was published to longest ago makes room.
/// This is part of the rules by which all nodes count.
pub const CLUSTER_TOPICS_MAX: usize = 65_536;

/// Bytes of memory for the idempotency keys of one bucket of a cluster, part of the rules as well.
pub const CLUSTER_KEYS_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Writers of records that one bucket of a cluster remembers, part of the rules as well.
pub const CLUSTER_WRITERS_MAX: usize = 1024;

/// How long a writer without records is remembered, in milliseconds of log time, part of the rules as well.
pub const CLUSTER_WRITER_IDLE_MS: u64 = 60 * 60 * 1000;

/// Buckets of a cluster.
pub const CLUSTER_BUCKETS_MAX: u16 = 64;

/// Bytes of entries that a node puts into one record, unless a single entry is larger.
pub const CLUSTER_RECORD_BYTES: usize = 64 * 1024;

/// Bytes of the broker's largest message that a record leaves for everything but its entries.
pub const CLUSTER_RECORD_SPARE_BYTES: usize = 16 * 1024;

/// Bytes of publications of one bucket that wait on a node for a record before more are refused.
pub const CLUSTER_QUEUE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Records of a bucket whose hashes a node remembers, to notice a log that was rewritten.
pub const CLUSTER_RECENT_RECORDS: usize = 4096;

/// Bytes of records that a node keeps behind a gap in a log. Beyond that it drops them, and fetches them later.
pub const CLUSTER_EARLY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes of a peer's ledger in one message.
pub const CLUSTER_SNAPSHOT_PART_BYTES: usize = 256 * 1024;

/// Bytes of a peer's ledger.
pub const CLUSTER_SNAPSHOT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Other nodes that a node knows.
pub const CLUSTER_PEERS_MAX: usize = 256;

/// Interval of a node's messages to all others, in milliseconds.
pub const CLUSTER_HEARTBEAT_MS: u64 = 1000;

/// Silence after which another node is gone, in milliseconds.
pub const CLUSTER_PEER_GONE_MS: u64 = 5000;

/// How often a node compares its place in a quiet log with the log's end, in milliseconds.
pub const CLUSTER_POLL_MS: u64 = 2000;

/// How long a log must end before a node's place in it until the node believes that the log has lost its end, in
/// milliseconds: a new leader of a replicated log may be behind for a moment.
pub const CLUSTER_REWIND_MS: u64 = 5000;

/// Time without a sign of a record after which it is sent again, in milliseconds.
pub const CLUSTER_RESEND_MS: u64 = 2000;

/// Bytes of publications that the shards have handed to the bridge of a cluster and that it has not taken.
pub const CLUSTER_INTAKE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Time for the other nodes of a cluster to answer a question, in milliseconds.
pub const CLUSTER_ANSWER_MS: u64 = 1000;

/// Bytes of the clients of one node of a cluster whose joins and leaves other nodes learn of.
pub const CLUSTER_MEMBERS_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Joins and leaves behind a gap that a node keeps of another one.
pub const CLUSTER_MEMBERS_EARLY_MAX: usize = 4096;

/// Time after which a node requests the clients of another one again, in milliseconds.
pub const CLUSTER_MEMBERS_ASK_MS: u64 = 3000;

/// Joins and leaves of other nodes that a node hands to its shards in one turn.
pub const CLUSTER_MEMBERS_PER_TURN: usize = 256;

/// Bytes of a node's figures that other nodes take.
pub const CLUSTER_FIGURES_BYTES_MAX: usize = 512 * 1024;

/// Questions of a node to all others that are under way.
pub const CLUSTER_QUESTIONS_MAX: usize = 1024;

/// Bytes of one message of a foreign service that `ringfeed test` takes; a larger one ends the connection.
pub const IMPORT_MESSAGE_BYTES_MAX: u32 = 4 * 1024 * 1024;

/// Messages of a foreign service that `ringfeed test` keeps and infers types from; more are only counted.
pub const IMPORT_SAMPLES_MAX: usize = 5_000;

/// Bytes of all messages that it keeps.
pub const IMPORT_SAMPLE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Levels of nesting of a foreign message that get a type; what lies deeper may be anything.
pub const IMPORT_DEPTH_MAX: usize = 16;

/// Fields of one object of a foreign message; an object with more is a map, whose keys are data.
pub const IMPORT_FIELDS_MAX: usize = 200;

/// Bytes of a field's name in a foreign message; a longer one is data, so its object is a map.
pub const IMPORT_KEY_BYTES_MAX: usize = 128;

/// Places in foreign messages that get a type of their own, over all types of messages.
pub const IMPORT_SHAPES_MAX: usize = 20_000;

/// Types of messages of a foreign service; all others count as one more type.
pub const IMPORT_TYPES_MAX: usize = 64;

/// Elements of a JSON array that may each have a type of their own.
pub const IMPORT_TUPLE_MAX: usize = 8;

/// Values of a string that may be an enumeration.
pub const IMPORT_ENUM_MAX: usize = 8;

/// Strings that must be seen for each value of an enumeration: few strings say nothing about the next one.
pub const IMPORT_ENUM_SEEN_MIN: u64 = 10;

/// Bytes of an example in a document that `ringfeed test` writes; longer ones are left out.
pub const IMPORT_EXAMPLE_BYTES_MAX: usize = 4 * 1024;
