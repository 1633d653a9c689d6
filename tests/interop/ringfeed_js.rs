//! The library of `clients/js`, on Node.js and against the real server; the packages that it is compared with, and the
//! frameworks that use it, are npm's. The scenarios are in `ringfeed_js.js`.

use crate::clients::RINGFEED_NODE;
use crate::support::repository;
use crate::world::{SECRET, World};

fn check(scenario: &str) {
    let world = World::start();
    let library = repository("clients/js/ringfeed.js");
    let library = library.to_str().expect("a path of UTF-8");
    let client = RINGFEED_NODE.start(&[scenario, &format!("http://{}", world.address()), SECRET, library]);
    world.follow(client);
}

/// A test for each scenario.
macro_rules! scenarios {
    ($($name:ident: $scenario:literal;)*) => {
        $(
            #[test]
            fn $name() {
                check($scenario);
            }
        )*
    };
}

scenarios! {
    each_mode_equals_its_model: "modes";
    a_lost_history_is_reported: "lost";
    a_late_subscriber_begins_with_the_history: "history";
    each_transport_recovers: "transports";
    the_next_transport_is_tried: "fallback";
    presence_follows_joins_and_leaves: "presence";
    tokens_are_refreshed: "tokens";
    hooks_change_and_prevent: "hooks";
    waits_are_random_from_the_first: "backoff";
    memory_stays_flat: "memory";
    one_line_is_enough_for_each_framework: "frameworks";
    the_types_compile: "types";
    the_core_is_small: "size";
}
