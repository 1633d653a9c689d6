//! Maps paths to handlers.

use std::fmt;

use super::Handler;
use crate::buf::ConnId;
use crate::limits::ROUTES_MAX;

/// Handlers by path: an exact path (`/echo`), or a prefix that ends in `/` (`/feed/`; `/` is every path without another
/// route).
#[derive(Default)]
pub struct Routes {
    routes: Vec<(String, Box<dyn Handler>)>,
}

/// Some routes of a server: those that a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteSet([u64; ROUTES_MAX / 64]);

/// The path of a route is not usable.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RouteError {
    /// The path does not begin with `/`.
    Invalid(String),
    /// The path is already registered.
    Repeated(String),
    /// There are [`ROUTES_MAX`] routes already.
    TooMany(String),
    /// A listener names a path that is not registered; the registered ones follow.
    Unknown(String, Vec<String>),
}

impl Routes {
    /// Adds a handler for `path`.
    ///
    /// # Errors
    /// [`RouteError`]; the routes are unchanged.
    pub fn add(&mut self, path: &str, handler: Box<dyn Handler>) -> Result<(), RouteError> {
        if !path.starts_with('/') {
            return Err(RouteError::Invalid(path.to_owned()));
        }
        if self.routes.iter().any(|(route, _)| route == path) {
            return Err(RouteError::Repeated(path.to_owned()));
        }
        if self.routes.len() == ROUTES_MAX {
            return Err(RouteError::TooMany(path.to_owned()));
        }
        self.routes.push((path.to_owned(), handler));
        Ok(())
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
            let Some(index) = self.routes.iter().position(|(route, _)| route == path) else {
                let known = self.routes.iter().map(|(route, _)| route.clone()).collect();
                return Err(RouteError::Unknown(path.clone(), known));
            };
            set.0[index / 64] |= 1 << (index % 64);
        }
        Ok(set)
    }

    /// The route of `path` among those in `served`, and the path after its prefix. The longest prefix wins.
    pub fn find<'p>(&self, path: &'p str, served: RouteSet) -> Option<(u8, &'p str)> {
        let matching = self.routes.iter().enumerate().filter_map(|(index, (route, _))| {
            let rest = path.strip_prefix(route.as_str())?;
            let is_match = rest.is_empty() || route.ends_with('/');
            (is_match && served.contains(index)).then_some((index as u8, rest))
        });
        matching.min_by_key(|(_, rest)| rest.len())
    }

    /// All handlers.
    pub fn iter(&self) -> impl Iterator<Item = &dyn Handler> {
        self.routes.iter().map(|(_, handler)| handler.as_ref())
    }

    /// The earliest [`deadline_ms`](Handler::deadline_ms) of all handlers: call [`take_due`](Self::take_due) then.
    pub fn deadline_ms(&self) -> Option<u64> {
        self.iter().filter_map(|handler| handler.deadline_ms()).min()
    }

    /// Pops a connection with an expired timer; call until `None`.
    pub fn take_due(&mut self, now_ms: u64) -> Option<ConnId> {
        self.routes.iter_mut().find_map(|(_, handler)| handler.take_due(now_ms))
    }

    /// The handler of a route.
    pub fn handler(&mut self, route: u8) -> &mut dyn Handler {
        self.routes[usize::from(route)].1.as_mut()
    }
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
                write!(f, "invalid route '{path}': a route must begin with /")
            }
            RouteError::Repeated(path) => write!(f, "route '{path}' is already registered"),
            RouteError::TooMany(path) => {
                write!(f, "too many routes for '{path}': the limit is {ROUTES_MAX}; serve several paths by one prefix")
            }
            RouteError::Unknown(path, known) => {
                write!(f, "there is no route '{path}' for a listener to serve: the server has {}", known.join(", "))
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
        routes.add("/feed/", Box::new(Feed::default())).unwrap();
        routes.add("/feed/private/", Box::new(Feed::default())).unwrap();
        routes.add("/echo", Box::new(Echo)).unwrap();
        assert_eq!(routes.find("/feed/a,b", RouteSet::ALL), Some((0, "a,b")));
        assert_eq!(routes.find("/feed/private/a", RouteSet::ALL), Some((1, "a")));
        assert_eq!(routes.find("/echo", RouteSet::ALL), Some((2, "")));
        assert_eq!(routes.find("/echo/more", RouteSet::ALL), None);
        assert_eq!(routes.find("/feed", RouteSet::ALL), None);
        assert_eq!(routes.find("/", RouteSet::ALL), None);
        routes.add("/", Box::new(Echo)).unwrap();
        assert_eq!(routes.find("/feed", RouteSet::ALL), Some((3, "feed")));
        assert_eq!(routes.find("/feed/a", RouteSet::ALL), Some((0, "a")));
        assert_eq!(routes.find("/", RouteSet::ALL), Some((3, "")));
    }

    #[test]
    fn bad_routes_are_rejected() {
        let mut routes = Routes::default();
        routes.add("/echo", Box::new(Echo)).unwrap();
        assert_eq!(routes.add("/echo", Box::new(Echo)), Err(RouteError::Repeated("/echo".into())));
        assert_eq!(routes.add("echo", Box::new(Echo)), Err(RouteError::Invalid("echo".into())));
        assert_eq!(routes.add("", Box::new(Echo)), Err(RouteError::Invalid("".into())));
    }

    #[test]
    fn the_number_of_routes_has_a_limit() {
        let mut routes = Routes::default();
        for n in 0..ROUTES_MAX {
            routes.add(&format!("/{n}"), Box::new(Echo)).unwrap();
        }
        assert_eq!(routes.find("/255", RouteSet::ALL), Some((255, "")));
        assert_eq!(routes.add("/more", Box::new(Echo)), Err(RouteError::TooMany("/more".into())));
    }

    #[test]
    fn a_listener_serves_its_routes_only() {
        let mut routes = Routes::default();
        for n in 0..100 {
            routes.add(&format!("/{n}/"), Box::new(Echo)).unwrap();
        }
        routes.add("/0/private/", Box::new(Echo)).unwrap();
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
