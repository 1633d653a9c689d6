//! Scenarios: what the clients of a run do. Each has the loop of its own, and [`run`] the steps they share.

pub(crate) mod acceptor;
pub(crate) mod churn;
pub(crate) mod connect;
pub(crate) mod crew;
pub(crate) mod crowd;
pub(crate) mod curve;
pub(crate) mod drain;
pub(crate) mod echo;
pub(crate) mod fanout;
pub(crate) mod feed;
pub(crate) mod idle;
pub(crate) mod load;
pub(crate) mod pace;
pub(crate) mod plan;
pub(crate) mod reconnect;
pub(crate) mod run;
pub(crate) mod slow;
pub(crate) mod storm;
