//! RFC 6455 as a sans-IO state machine, both roles.
