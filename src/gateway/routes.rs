//! Maps paths to handlers.

use std::fmt;

use super::Handler;
use super::erased::{ErasedHandler, Stateful};
use crate::limits::ROUTES_MAX;

/// Handlers by path: an exact path (`/echo`), or a prefix that ends in `/` (`/feed/`; `/` is every path without another
/// route). A segment `{name}` stands for any segment (`/rooms/{room}`).
#[derive(Default)]
pub struct Routes {
    routes: Vec<(String, Box<dyn ErasedHandler>)>,
}

/// Some routes of a server: those that a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteSet([u64; ROUTES_MAX / 64]);

/// The path of a route is not usable.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RouteError {
    /// The path does not begin with `/`, or a parameter is not a whole segment with a name of its own.
    Invalid(String),
    /// The path is already registered, perhaps with other names of parameters.
    Repeated(String),
    /// There are [`ROUTES_MAX`] routes already.
    TooMany(String),
    /// A listener names a path that is not registered; the registered ones follow.
    Unknown(String, Vec<String>),
    /// A listener names a protocol that is not registered; the registered ones follow.
    UnknownProtocol(String, Vec<String>),
    /// The listener of this protocol names paths.
    PathsOfProtocol(String),
}

impl Routes {
    /// Adds a handler for `path`.
    ///
    /// # Errors
    /// [`RouteError`]; the routes are unchanged.
    pub fn add<H: Handler + 'static>(&mut self, path: &str, handler: H) -> Result<(), RouteError> {
        self.add_erased(path, erase(handler))
    }

    pub(crate) fn add_erased(&mut self, path: &str, handler: Box<dyn ErasedHandler>) -> Result<(), RouteError> {
        if !is_valid(path) {
            return Err(RouteError::Invalid(path.to_owned()));
        }
        if self.routes.iter().any(|(route, _)| shape(route).eq(shape(path))) {
            return Err(RouteError::Repeated(path.to_owned()));
        }
        if self.routes.len() == ROUTES_MAX {
            return Err(RouteError::TooMany(path.to_owned()));
        }
        self.routes.push((path.to_owned(), handler));
        Ok(())
    }

    /// Adds the handler of a protocol. No request finds it, since paths begin with `/`.
    ///
    /// # Errors
    /// [`RouteError`]; the routes are unchanged.
    pub(crate) fn add_protocol(&mut self, name: &str, handler: Box<dyn ErasedHandler>) -> Result<(), RouteError> {
        if name.is_empty() || name.contains('/') {
            return Err(RouteError::Invalid(name.to_owned()));
        }
        if self.position(name).is_some() {
            return Err(RouteError::Repeated(name.to_owned()));
        }
        if self.routes.len() == ROUTES_MAX {
            return Err(RouteError::TooMany(name.to_owned()));
        }
        self.routes.push((name.to_owned(), handler));
        Ok(())
    }

    /// The number of the route with this path, or of the protocol with this name.
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.routes.iter().position(|(route, _)| route == name)
    }

    /// The registered routes with these paths; all of them if `paths` is empty.
    ///
    /// # Errors
    /// [`RouteError::Unknown`].
    pub fn select(&self, paths: &[String]) -> Result<RouteSet, RouteError> {
        if paths.is_empty() {
            return Ok(RouteSet::ALL);
        }
        let mut set = RouteSet([0; ROUTES_MAX / 64]);
        for path in paths {
            let Some(index) = self.position(path).filter(|_| path.starts_with('/')) else {
                let paths = self.routes.iter().filter(|(route, _)| route.starts_with('/'));
                let known = paths.map(|(route, _)| route.clone()).collect();
                return Err(RouteError::Unknown(path.clone(), known));
            };
            set.0[index / 64] |= 1 << (index % 64);
        }
        Ok(set)
    }

    /// The route of `path` among those in `served`, and the path after its prefix. The longest prefix wins, then the
    /// route with fewer parameters.
    pub fn find<'p>(&self, path: &'p str, served: RouteSet) -> Option<(u8, &'p str)> {
        let matching = self.routes.iter().enumerate().filter_map(|(index, (route, _))| {
            let rest = walk(route, path, |_, _| {})?;
            served.contains(index).then_some((index as u8, rest))
        });
        let parameters = |index: u8| self.routes[usize::from(index)].0.matches('{').count();
        matching.min_by_key(|(index, rest)| (rest.len(), parameters(*index)))
    }

    /// The names of all routes: paths, and names of protocols.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.routes.iter().map(|(name, _)| name.as_str())
    }

    /// All handlers.
    #[cfg(feature = "centrifuge")]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &dyn ErasedHandler> {
        self.routes.iter().map(|(_, handler)| handler.as_ref())
    }

    /// All handlers, to change.
    #[cfg(feature = "product")]
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Box<dyn ErasedHandler>> {
        self.routes.iter_mut().map(|(_, handler)| handler)
    }

    /// The handler of a route.
    pub(crate) fn handler(&mut self, route: u8) -> &mut dyn ErasedHandler {
        self.routes[usize::from(route)].1.as_mut()
    }

    /// The path of a route, as it was registered, or the name of its protocol; and its handler, to ask.
    pub(crate) fn look_up(&self, route: u8) -> (&str, &dyn ErasedHandler) {
        let (path, handler) = &self.routes[usize::from(route)];
        (path, handler.as_ref())
    }

    /// The path of a route, as it was registered, and its handler.
    pub(crate) fn entry(&mut self, route: u8) -> (&str, &mut dyn ErasedHandler) {
        let (path, handler) = &mut self.routes[usize::from(route)];
        (path, handler.as_mut())
    }
}

/// A handler as a shard calls it.
pub(crate) fn erase<H: Handler + 'static>(handler: H) -> Box<dyn ErasedHandler> {
    Box::new(Stateful::new(handler))
}

/// The value of a parameter of `route` in `path`; not percent-decoded.
pub(super) fn path_parameter<'p>(route: &str, path: &'p str, name: &str) -> Option<&'p str> {
    let mut found = None;
    walk(route, path, |parameter, value| {
        if parameter == name {
            found = Some(value);
        }
    })?;
    found
}

/// Matches `path` against a route, and calls `on_parameter` with the name and the value of each parameter. Returns the
/// path after the route's prefix.
fn walk<'p>(mut route: &str, mut path: &'p str, mut on_parameter: impl FnMut(&str, &'p str)) -> Option<&'p str> {
    while let Some((before, behind)) = route.split_once('{') {
        let (name, behind) = behind.split_once('}')?;
        path = path.strip_prefix(before)?;
        let (value, rest) = path.split_at(path.find('/').unwrap_or(path.len()));
        if value.is_empty() {
            return None;
        }
        on_parameter(name, value);
        (route, path) = (behind, rest);
    }
    let rest = path.strip_prefix(route)?;
    (rest.is_empty() || route.ends_with('/')).then_some(rest)
}

/// Whether a route can be registered.
fn is_valid(path: &str) -> bool {
    let mut names: Vec<&str> = Vec::new();
    path.starts_with('/')
        && path.split('/').all(|segment| match parameter(segment) {
            Some(name) => {
                let is_new = !name.is_empty() && !name.contains(['{', '}']) && !names.contains(&name);
                names.push(name);
                is_new
            }
            None => !segment.contains(['{', '}']),
        })
}

/// The segments of a route, without the names of its parameters.
fn shape(path: &str) -> impl Iterator<Item = Option<&str>> {
    path.split('/').map(|segment| Some(segment).filter(|segment| parameter(segment).is_none()))
}

/// The name of the parameter that a segment of a route is.
fn parameter(segment: &str) -> Option<&str> {
    segment.strip_prefix('{')?.strip_suffix('}')
}

impl RouteSet {
    /// All routes.
    pub const ALL: RouteSet = RouteSet([u64::MAX; ROUTES_MAX / 64]);

    fn contains(self, index: usize) -> bool {
        self.0[index / 64] >> (index % 64) & 1 == 1
    }
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RouteError::Invalid(path) => {
                write!(
                    f,
                    "invalid route '{path}': a route must begin with /, and each {{name}} must be a whole segment; the \
                     name of a protocol has no /"
                )
            }
            RouteError::Repeated(path) => write!(f, "route '{path}' is already registered"),
            RouteError::TooMany(path) => {
                write!(f, "too many routes for '{path}': the limit is {ROUTES_MAX}; serve several paths by one prefix")
            }
            RouteError::Unknown(path, known) => {
                write!(f, "there is no route '{path}' for a listener to serve: the server has {}", known.join(", "))
            }
            RouteError::UnknownProtocol(name, known) if known.is_empty() => {
                write!(
                    f,
                    "there is no protocol '{name}' for a listener to speak: the server has HTTP and WebSocket only"
                )
            }
            RouteError::UnknownProtocol(name, known) => {
                write!(f, "there is no protocol '{name}' for a listener to speak: the server has {}", known.join(", "))
            }
            RouteError::PathsOfProtocol(name) => {
                write!(f, "the listener of protocol '{name}' has no requests with paths: remove its routes")
            }
        }
    }
}

impl std::error::Error for RouteError {}

#[cfg(test)]
mod tests {
    use super::super::{Echo, Feed};
    use super::*;

    #[test]
    fn the_longest_prefix_wins() {
        let mut routes = Routes::default();
        routes.add("/feed/", Feed::default()).unwrap();
        routes.add("/feed/private/", Feed::default()).unwrap();
        routes.add("/echo", Echo).unwrap();
        assert_eq!(routes.find("/feed/a,b", RouteSet::ALL), Some((0, "a,b")));
        assert_eq!(routes.find("/feed/private/a", RouteSet::ALL), Some((1, "a")));
        assert_eq!(routes.find("/echo", RouteSet::ALL), Some((2, "")));
        assert_eq!(routes.find("/echo/more", RouteSet::ALL), None);
        assert_eq!(routes.find("/feed", RouteSet::ALL), None);
        assert_eq!(routes.find("/", RouteSet::ALL), None);
        routes.add("/", Echo).unwrap();
        assert_eq!(routes.find("/feed", RouteSet::ALL), Some((3, "feed")));
        assert_eq!(routes.find("/feed/a", RouteSet::ALL), Some((0, "a")));
        assert_eq!(routes.find("/", RouteSet::ALL), Some((3, "")));
    }

    #[test]
    fn a_parameter_is_one_segment() {
        let mut routes = Routes::default();
        for route in ["/rooms/{room}", "/rooms/lobby", "/rooms/{room}/users/{user}", "/rooms/", "/{any}/list/"] {
            routes.add(route, Echo).unwrap();
        }
        let rows = [
            ("/rooms/a", Some((0, ""))),
            ("/rooms/lobby", Some((1, ""))),
            ("/rooms/a/users/b", Some((2, ""))),
            ("/rooms/a/users/", Some((3, "a/users/"))),
            ("/rooms/", Some((3, ""))),
            ("/rooms//", Some((3, "/"))),
            ("/x/list/1", Some((4, "1"))),
            ("//list/1", None),
            ("/x", None),
        ];
        for (path, expected) in rows {
            assert_eq!(routes.find(path, RouteSet::ALL), expected, "{path}");
        }
        let user = |name| path_parameter("/rooms/{room}/users/{user}", "/rooms/a/users/b", name);
        assert_eq!((user("room"), user("user"), user("x")), (Some("a"), Some("b"), None));
        for bad in ["/{}", "/a{b}", "/{a}b", "/{a", "/{a}/{a}", "/{{a}}", "{a}"] {
            assert_eq!(routes.add(bad, Echo), Err(RouteError::Invalid(bad.into())));
        }
        assert_eq!(routes.add("/rooms/{name}", Echo), Err(RouteError::Repeated("/rooms/{name}".into())));
    }

    #[test]
    fn bad_routes_are_rejected() {
        let mut routes = Routes::default();
        routes.add("/echo", Echo).unwrap();
        assert_eq!(routes.add("/echo", Echo), Err(RouteError::Repeated("/echo".into())));
        assert_eq!(routes.add("echo", Echo), Err(RouteError::Invalid("echo".into())));
        assert_eq!(routes.add("", Echo), Err(RouteError::Invalid("".into())));
    }

    #[test]
    fn the_number_of_routes_has_a_limit() {
        let mut routes = Routes::default();
        for n in 0..ROUTES_MAX {
            routes.add(&format!("/{n}"), Echo).unwrap();
        }
        assert_eq!(routes.find("/255", RouteSet::ALL), Some((255, "")));
        assert_eq!(routes.add("/more", Echo), Err(RouteError::TooMany("/more".into())));
    }

    #[test]
    fn a_listener_serves_its_routes_only() {
        let mut routes = Routes::default();
        for n in 0..100 {
            routes.add(&format!("/{n}/"), Echo).unwrap();
        }
        routes.add("/0/private/", Echo).unwrap();
        let select = |paths: &[&str]| routes.select(&paths.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(select(&[]), Ok(RouteSet::ALL));
        let served = select(&["/0/", "/99/"]).unwrap();
        assert_eq!(routes.find("/99/a", served), Some((99, "a")));
        assert_eq!(routes.find("/98/a", served), None);
        assert_eq!(routes.find("/0/private/a", served), Some((0, "private/a")), "as if it were the only one");
        let error = select(&["/0/", "/nowhere"]).unwrap_err();
        assert!(error.to_string().starts_with("there is no route '/nowhere' for a listener to serve: "), "{error}");
    }
}
