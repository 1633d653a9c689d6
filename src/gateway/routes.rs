//! Which handler a path belongs to.

use std::fmt;

use super::Handler;
use crate::buf::ConnId;
use crate::limits::ROUTES_MAX;

/// Handlers by path: an exact one (`/echo`), or a prefix that ends in `/` (`/feed/`).
#[derive(Default)]
pub struct Routes {
    routes: Vec<(String, Box<dyn Handler>)>,
}

/// A path that can't be a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteError {
    /// It does not begin with `/`, or is `/` itself, which is the page's.
    Invalid(String),
    /// It is there twice.
    Repeated(String),
    /// It is one more than [`ROUTES_MAX`].
    TooMany(String),
}

impl Routes {
    /// Adds a handler for `path`.
    pub fn add(&mut self, path: &str, handler: Box<dyn Handler>) -> Result<(), RouteError> {
        if !path.starts_with('/') || path == "/" {
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

    /// The route of `path`, and what follows its prefix. The longest prefix wins.
    pub fn find<'p>(&self, path: &'p str) -> Option<(u8, &'p str)> {
        let matching = self.routes.iter().enumerate().filter_map(|(index, (route, _))| {
            let rest = path.strip_prefix(route.as_str())?;
            (rest.is_empty() || route.ends_with('/')).then_some((index as u8, rest))
        });
        matching.min_by_key(|(_, rest)| rest.len())
    }

    /// All handlers.
    pub fn iter(&self) -> impl Iterator<Item = &dyn Handler> {
        self.routes.iter().map(|(_, handler)| handler.as_ref())
    }

    /// When [`take_due`](Self::take_due) is to be asked next.
    pub fn deadline_ms(&self) -> Option<u64> {
        self.iter().filter_map(|handler| handler.deadline_ms()).min()
    }

    /// A connection whose time has come for its handler; ask again until there is none.
    pub fn take_due(&mut self, now_ms: u64) -> Option<ConnId> {
        self.routes.iter_mut().find_map(|(_, handler)| handler.take_due(now_ms))
    }

    /// The handler of a route.
    pub fn handler(&mut self, route: u8) -> &mut dyn Handler {
        self.routes[usize::from(route)].1.as_mut()
    }
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RouteError::Invalid(path) => {
                write!(f, "'{path}' can't be a route: it must begin with / and be more than /")
            }
            RouteError::Repeated(path) => write!(f, "the route '{path}' is there twice"),
            RouteError::TooMany(path) => {
                write!(f, "no room for the route '{path}': there are at most {ROUTES_MAX}, so serve it by a prefix")
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
        assert_eq!(routes.find("/feed/a,b"), Some((0, "a,b")));
        assert_eq!(routes.find("/feed/private/a"), Some((1, "a")));
        assert_eq!(routes.find("/echo"), Some((2, "")));
        assert_eq!(routes.find("/echo/more"), None);
        assert_eq!(routes.find("/feed"), None);
        assert_eq!(routes.find("/"), None);
    }

    #[test]
    fn bad_routes_are_refused() {
        let mut routes = Routes::default();
        routes.add("/echo", Box::new(Echo)).unwrap();
        assert_eq!(routes.add("/echo", Box::new(Echo)), Err(RouteError::Repeated("/echo".into())));
        assert_eq!(routes.add("echo", Box::new(Echo)), Err(RouteError::Invalid("echo".into())));
        assert_eq!(routes.add("/", Box::new(Echo)), Err(RouteError::Invalid("/".into())));
    }

    #[test]
    fn there_is_a_last_route() {
        let mut routes = Routes::default();
        for n in 0..ROUTES_MAX {
            routes.add(&format!("/{n}"), Box::new(Echo)).unwrap();
        }
        assert_eq!(routes.find("/255"), Some((255, "")));
        assert_eq!(routes.add("/more", Box::new(Echo)), Err(RouteError::TooMany("/more".into())));
    }
}
