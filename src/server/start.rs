//! From a configuration to running shards.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::sync::oneshot;

use super::addresses::AddressCounts;
use super::listener::{ListenAddress, ListenerConfig, ProxyProtocol, ShardListener};
use super::mesh::{self, Mesh, MeshSizes, Publisher};
use super::order::Order;
use super::shard::{Shard, ShardParts};
use super::{PublishError, ServerConfig, Status, listener};
use crate::gateway::{ErasedHandler, Handler, Protocol, RouteError, Routes, erase};
use crate::limits::{LISTENERS_MAX, RECV_BUFFER_BYTES, RECV_BUFFERS, SPARE_DESCRIPTORS};
use crate::ring::{Event, Ring, RingAddress, StartError, TABLE_MAX, Uring, UringConfig};
use crate::tls::{Acceptor, TlsError};

/// Pause before a full queue is tried again.
const DRAIN_RETRY: Duration = Duration::from_millis(1);

/// Makes a handler on a shard's thread.
type Factory = Box<dyn Fn() -> Box<dyn ErasedHandler> + Send + Sync>;

/// A server that is being put together.
pub struct ServerBuilder {
    config: ServerConfig,
    entries: Vec<Entry>,
    order: Option<Arc<dyn Order>>,
}

/// A route, or a protocol.
struct Entry {
    /// The path, or the protocol's name.
    name: String,
    factory: Factory,
    /// `None` for a route.
    protocol: Option<Protocol>,
}

/// A running server: its shards accept and serve, each on a thread of its own, until they have drained. Dropping this
/// does not stop them.
#[non_exhaustive]
pub struct Server {
    /// Where it listens, in the order of the configuration, with the ports that the kernel chose for port 0.
    pub addresses: Vec<ListenAddress>,
    /// Connections that it holds at most, over all shards.
    pub connections_max: usize,
    /// How to publish from outside the shards, and to stop them.
    pub publisher: Publisher,
    /// What the shards count.
    pub status: Status,
    /// The certificates of its TLS listeners, if it has one: they can be replaced.
    pub tls: Option<Acceptor>,
    /// Resolves, with an error that means nothing, when the last shard has ended.
    pub ended: oneshot::Receiver<()>,
}

/// Why a server could not be started. Its text names the remedy.
#[derive(Debug)]
#[non_exhaustive]
pub enum ServeError {
    /// A route that can't be.
    Route(RouteError),
    /// The address can't be listened on.
    Listen(ListenAddress, io::Error),
    /// The configuration has so many listeners: none, or more than [`LISTENERS_MAX`].
    Listeners(usize),
    /// The listener at this address takes connections of trusted proxies only, and there are none.
    NoProxies(ListenAddress),
    /// The certificates can't be used.
    Tls(TlsError),
    /// A keyed namespace can't be served like this.
    Keyed(String),
    /// A ring could not be set up.
    Ring(StartError),
    /// The kernel refused something else, named first.
    Kernel(&'static str, io::Error),
}

/// What a shard's thread is given.
struct ShardSetup {
    shard: usize,
    cpu: Option<usize>,
    listeners: Vec<ShardListener>,
    wake: Event,
    entries: Arc<[Entry]>,
    config: ServerConfig,
    capacity: Capacity,
    addresses: Option<AddressCounts>,
    status: Status,
    epoch_seed: u64,
    /// Dropped when the thread ends.
    _ended: Arc<oneshot::Sender<()>>,
}

/// A shard's ring, as its thread announces it.
type Ready = (usize, Result<RingAddress, StartError>);

impl Server {
    /// A server with `config` and no routes yet.
    pub fn builder(config: ServerConfig) -> ServerBuilder {
        ServerBuilder { config, entries: Vec::new(), order: None }
    }

    /// Waits until the server has stopped: after [`Publisher::drain`], which any thread may call.
    pub fn wait(self) {
        // It fails when the last shard has ended, which is what it is for.
        let _ = self.ended.blocking_recv();
    }

    /// Stops gracefully, and waits until the server has stopped: it accepts no connection, closes each with 1001 within
    /// [`drain_spread_ms`](ServerConfig::drain_spread_ms), and gives its peer
    /// [`drain_timeout_ms`](ServerConfig::drain_timeout_ms) to answer.
    pub fn shutdown(self) {
        self.status.set_draining();
        while self.publisher.drain() == Err(PublishError::Busy) {
            thread::sleep(DRAIN_RETRY);
        }
        self.wait();
    }

    /// The IP address of the first listener that has one.
    ///
    /// # Panics
    /// If all listeners are Unix sockets.
    pub fn address(&self) -> SocketAddr {
        let ip = |address: &ListenAddress| match address {
            ListenAddress::Ip(address) => Some(*address),
            _ => None,
        };
        self.addresses.iter().find_map(ip).expect("a listener with an IP address")
    }
}

impl ServerBuilder {
    /// Has `path` served by handlers that `factory` makes, one for each shard, on its thread. A path that ends in `/`
    /// stands for all that begin with it, and a segment `{name}` for any segment: see
    /// [`Get::param`](crate::gateway::Get::param).
    pub fn route<H: Handler + 'static>(mut self, path: &str, factory: impl Fn() -> H + Send + Sync + 'static) -> Self {
        let factory = Box::new(move || erase(factory()));
        self.entries.push(Entry { name: path.to_owned(), factory, protocol: None });
        self
    }

    /// Has listeners with this name as their [`protocol`](ListenerConfig::protocol) speak `protocol`: handlers that
    /// `factory` makes, one for each shard, serve their connections, which begin with
    /// [`Handler::on_connect`].
    pub fn protocol<H: Handler + 'static>(
        mut self,
        name: &str,
        protocol: &Protocol,
        factory: impl Fn() -> H + Send + Sync + 'static,
    ) -> Self {
        let factory = Box::new(move || erase(factory()));
        self.entries.push(Entry { name: name.to_owned(), factory, protocol: Some(protocol.clone()) });
        self
    }

    /// Has `order` give publications their positions. Without it each topic's home shard does.
    pub fn order(mut self, order: Arc<dyn Order>) -> Self {
        self.order = Some(order);
        self
    }

    /// Listens and starts the shards. When this returns, connections are accepted.
    ///
    /// # Errors
    /// [`ServeError`]; nothing is left running then.
    pub fn start(self) -> Result<Server, ServeError> {
        let ServerBuilder { config, entries, order } = self;
        config.namespaces.check(order.is_some()).map_err(ServeError::Keyed)?;
        let routes = make_routes(&entries).map_err(ServeError::Route)?;
        let cpus = allowed_cpus().map_err(|error| ServeError::Kernel("reading the CPU affinity", error))?;
        let count = if config.shards == 0 { cpus.len() } else { config.shards };
        let capacity = Capacity::new(config.connections_max, count, raise_file_limit()?);
        let tls = config.acceptor().map_err(ServeError::Tls)?;
        let (addresses, listeners) = listen(&config, count, &routes, &entries, tls.as_ref())?;
        let events: Vec<Event> = (0..count)
            .map(|_| Event::new())
            .collect::<io::Result<_>>()
            .map_err(|error| ServeError::Kernel("making an eventfd", error))?;
        let status = Status::new(count);
        let (ended_sender, ended) = oneshot::channel();
        let (entries, ended_sender) = (Arc::from(entries), Arc::new(ended_sender));
        let address_max = NonZeroU32::new(config.connections_per_address_max);
        let address_counts = address_max.map(|max| AddressCounts::new(max.get()));
        let epoch_seed = RandomState::new().hash_one(std::process::id());
        let (ready_sender, ready) = mpsc::channel();
        let mut starts = Vec::new();
        for (shard, listeners) in listeners.into_iter().enumerate() {
            let setup = ShardSetup {
                shard,
                cpu: (count <= cpus.len()).then(|| cpus[shard]),
                listeners,
                wake: events[shard].clone(),
                entries: Arc::clone(&entries),
                config: config.clone(),
                capacity,
                addresses: address_counts.clone(),
                status: status.clone(),
                // Each home's own, so that no two topics share an epoch.
                epoch_seed: epoch_seed.wrapping_add(shard as u64),
                _ended: Arc::clone(&ended_sender),
            };
            starts.push(setup.spawn(ready_sender.clone())?);
        }
        let rings = collect_addresses(&ready, count).map_err(ServeError::Ring)?;
        let home_key = [0, 1].map(|word: u64| RandomState::new().hash_one(word));
        let (publisher, meshes) = mesh::connect(&rings, &events, MeshSizes::of(rings.len()), home_key, order);
        for (start, mesh) in starts.into_iter().zip(meshes) {
            start.send(mesh).expect("a shard with a ring waits for its mesh");
        }
        Ok(Server { addresses, connections_max: capacity.connections_max, publisher, status, tls, ended })
    }
}

impl ShardSetup {
    /// Starts the shard's thread: it announces its ring, waits for the mesh, and serves.
    fn spawn(self, ready: mpsc::Sender<Ready>) -> Result<mpsc::Sender<Mesh<RingAddress>>, ServeError> {
        let (start, mesh) = mpsc::channel();
        thread::Builder::new()
            .name(format!("shard-{}", self.shard))
            .spawn(move || {
                let _guard = AbortOnPanic;
                self.run(&ready, &mesh);
            })
            .map_err(|error| ServeError::Kernel("starting a thread", error))?;
        Ok(start)
    }

    fn run(self, ready: &mpsc::Sender<Ready>, mesh: &mpsc::Receiver<Mesh<RingAddress>>) {
        if let Some(cpu) = self.cpu {
            pin(cpu);
        }
        let ring = Uring::new(UringConfig {
            descriptors: self.capacity.descriptors,
            recv_buffers: RECV_BUFFERS,
            recv_buffer_bytes: RECV_BUFFER_BYTES,
        });
        let ring = match ring {
            Ok(ring) => {
                if ring.lanes() > 1 {
                    let (shard, rings) = (self.shard, ring.lanes());
                    tracing::info!(shard, rings, "RLIMIT_NOFILE is less than a shard's connections: several rings");
                }
                let _ = ready.send((self.shard, Ok(ring.address())));
                ring
            }
            Err(error) => {
                let _ = ready.send((self.shard, Err(error)));
                return;
            }
        };
        // No mesh comes when another shard could not start.
        let Ok(mesh) = mesh.recv() else { return };
        let parts = ShardParts {
            ring,
            listeners: self.listeners,
            wake: self.wake,
            mesh,
            routes: make_routes(&self.entries).expect("the routes were made once already"),
            config: self.config,
            connections_max: self.capacity.connections_max,
            descriptors: self.capacity.descriptors as usize,
            epoch_seed: self.epoch_seed,
            addresses: self.addresses,
            seed: RandomState::new().hash_one(self.shard),
        };
        Shard::new(parts, &self.status.shards).run();
    }
}

/// A shard that panicked leaves its connections dead and its topics without an order: the process must not go on.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

fn make_routes(entries: &[Entry]) -> Result<Routes, RouteError> {
    let mut routes = Routes::default();
    for Entry { name, factory, protocol } in entries {
        match protocol {
            None => routes.add_erased(name, factory())?,
            Some(_) => routes.add_protocol(name, factory())?,
        }
    }
    Ok(routes)
}

/// What a listener speaks instead of HTTP and WebSocket, and the number of the protocol's handler.
fn protocol_of(
    listener: &ListenerConfig,
    routes: &Routes,
    entries: &[Entry],
) -> Result<Option<(u8, Protocol)>, RouteError> {
    let name = &listener.protocol;
    if name.is_empty() {
        return Ok(None);
    }
    if !listener.routes.is_empty() {
        return Err(RouteError::PathsOfProtocol(name.clone()));
    }
    let entry = entries.iter().find(|entry| entry.name == *name);
    match (routes.position(name), entry.and_then(|entry| entry.protocol.clone())) {
        (Some(index), Some(protocol)) => Ok(Some((index as u8, protocol))),
        _ => {
            let known = entries.iter().filter(|entry| entry.protocol.is_some());
            Err(RouteError::UnknownProtocol(name.clone(), known.map(|entry| entry.name.clone()).collect()))
        }
    }
}

/// Whether other hosts reach it by HTTP without TLS.
fn is_plain(listener: &ListenerConfig) -> bool {
    let is_exposed = match &listener.address {
        ListenAddress::Ip(address) => !address.ip().is_loopback(),
        ListenAddress::Unix(_) => false,
        ListenAddress::Inherited(_) => true,
    };
    is_exposed && !listener.tls && listener.protocol.is_empty()
}

/// Opens all listeners. Returns their addresses, and the listeners of each of `count` shards.
fn listen(
    config: &ServerConfig,
    count: usize,
    routes: &Routes,
    entries: &[Entry],
    acceptor: Option<&Acceptor>,
) -> Result<(Vec<ListenAddress>, Vec<Vec<ShardListener>>), ServeError> {
    if !(1..=LISTENERS_MAX).contains(&config.listeners.len()) {
        return Err(ServeError::Listeners(config.listeners.len()));
    }
    let has_plain = config.listeners.iter().any(is_plain);
    let mut addresses = Vec::new();
    let mut shards: Vec<Vec<ShardListener>> = (0..count).map(|_| Vec::new()).collect();
    for listener in &config.listeners {
        let ListenerConfig { address, tls, proxy_protocol, routes: paths, .. } = listener;
        let is_proxied = *proxy_protocol == ProxyProtocol::Require;
        if is_proxied && config.trusted_proxies.is_empty() {
            return Err(ServeError::NoProxies(address.clone()));
        }
        let protocol = protocol_of(listener, routes, entries).map_err(ServeError::Route)?;
        let routes = routes.select(paths).map_err(ServeError::Route)?;
        let (address, sockets) = listener::listen(address, listener.mode, count, config.socket_notsent_bytes)
            .map_err(|error| ServeError::Listen(address.clone(), error))?;
        let ip = match &address {
            ListenAddress::Ip(address) => Some(address.ip()),
            _ => None,
        };
        for (shard, socket) in shards.iter_mut().zip(sockets) {
            shard.push(ShardListener {
                socket: Some(socket),
                on_loopback: ip.is_some_and(|ip| ip.is_loopback()),
                has_addresses: ip.is_some(),
                is_proxied,
                routes,
                protocol: protocol.clone(),
                tls: acceptor.filter(|_| *tls).cloned(),
                hsts_seconds: if *tls && !has_plain { config.tls.hsts_seconds } else { 0 },
            });
        }
        addresses.push(address);
    }
    Ok((addresses, shards))
}

/// How many connections there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Capacity {
    /// On all shards together.
    connections_max: usize,
    /// Sockets that each shard can hold.
    descriptors: u32,
}

impl Capacity {
    /// Room for `connections_max` connections, or for as many as one kernel ring of each shard takes, whose table holds
    /// `table_max`.
    fn new(connections_max: usize, shards: usize, table_max: u32) -> Capacity {
        if connections_max == 0 {
            let share = table_max.saturating_sub(SPARE_DESCRIPTORS).max(1);
            return Capacity { connections_max: share as usize * shards, descriptors: share + SPARE_DESCRIPTORS };
        }
        let share = connections_max.div_ceil(shards);
        // The kernel deals connections out by hash: some shard gets more than its share, hardly ever by more than four
        // standard deviations.
        let uneven = if shards > 1 { 4 * share.isqrt() } else { 0 };
        let descriptors = share + uneven.min(connections_max - share) + SPARE_DESCRIPTORS as usize;
        Capacity { connections_max, descriptors: u32::try_from(descriptors).unwrap_or(u32::MAX) }
    }
}

/// Raises the soft limit on files to the hard one, and returns how many sockets a kernel ring can hold then.
fn raise_file_limit() -> Result<u32, ServeError> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .map_err(|error| ServeError::Kernel("raising RLIMIT_NOFILE to its hard limit", error.into()))?;
    Ok(u32::try_from(limit.maximum.unwrap_or(u64::MAX)).unwrap_or(u32::MAX).min(TABLE_MAX))
}

fn allowed_cpus() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
}

/// Keeps the calling thread on `cpu`. Where that is forbidden the shard runs wherever the kernel puts it.
fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    if let Err(error) = sched_setaffinity(None, &set) {
        tracing::warn!(cpu, %error, "a shard could not be pinned");
    }
}

/// The shards' rings in order, or why one could not start.
fn collect_addresses(ready: &mpsc::Receiver<Ready>, count: usize) -> Result<Vec<RingAddress>, StartError> {
    let mut addresses = vec![None; count];
    for (shard, address) in ready.iter().take(count) {
        addresses[shard] = Some(address?);
    }
    Ok(addresses.into_iter().map(|address| address.expect("each shard announces itself")).collect())
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServeError::Route(error) => error.fmt(f),
            ServeError::NoProxies(address) => {
                write!(f, "{address}: proxy_protocol needs the proxy's address in trusted_proxies")
            }
            ServeError::Tls(error) => error.fmt(f),
            ServeError::Keyed(text) => f.write_str(text),
            ServeError::Ring(error) => error.fmt(f),
            ServeError::Listeners(count) => {
                write!(f, "{count} listeners: a server has from 1 to {LISTENERS_MAX}; serve more behind a proxy")
            }
            ServeError::Kernel(what, error) => write!(f, "{what} failed: {error}"),
            ServeError::Listen(address, error) => {
                let remedy = match error.kind() {
                    io::ErrorKind::AddrInUse => ": stop what listens there, or choose another address with --listen",
                    io::ErrorKind::AddrNotAvailable => ": this host has no such address",
                    io::ErrorKind::PermissionDenied => {
                        ": ports below 1024 need CAP_NET_BIND_SERVICE, a Unix socket a directory that may be written to"
                    }
                    io::ErrorKind::NotFound => ": its directory does not exist",
                    _ => "",
                };
                write!(f, "cannot listen on {address}: {error}{remedy}")
            }
        }
    }
}

impl std::error::Error for ServeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shard_has_room_for_more_than_its_share() {
        let rows = [
            ("as many as a table holds", (0, 2, 20_000), (39_872, 20_000)),
            ("a tiny table", (0, 1, 10), (1, 65)),
            ("alone", (1_000_000, 1, 20_000), (1_000_000, 1_000_064)),
            ("with one other", (1_000_000, 2, 20_000), (1_000_000, 502_892)),
            ("less than there are shards", (1, 4, 20_000), (1, 65)),
        ];
        for (name, (wanted, shards, table_max), (connections_max, descriptors)) in rows {
            assert_eq!(Capacity::new(wanted, shards, table_max), Capacity { connections_max, descriptors }, "{name}");
        }
    }
}
