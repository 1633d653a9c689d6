//! The official client of Centrifugo's protocol, npm's `centrifuge`, in Node.js and in Chromium, in both encodings.
//!
//! The scenarios are in `centrifuge/scenarios.js`.

use crate::browser;
use crate::clients::{CENTRIFUGE_BROWSER, CENTRIFUGE_NODE};
use crate::world::{SECRET, World};

fn url(world: &World) -> String {
    format!("ws://{}/connection/websocket", world.address())
}

fn check_node(scenario: &str, encoding: &str) {
    let world = World::start();
    let client = CENTRIFUGE_NODE.start(&[scenario, &url(&world), encoding, SECRET]);
    world.follow(client);
}

fn check_browser(scenario: &str, encoding: &str) {
    let Some(chromium) = browser::chromium() else { return };
    let world = World::start();
    let client = CENTRIFUGE_BROWSER.start(&[scenario, &url(&world), encoding, SECRET, chromium]);
    world.follow(client);
}

/// A test for each scenario, client and encoding.
macro_rules! scenarios {
    ($($name:ident: $scenario:literal;)*) => {
        $(
            mod $name {
                #[test]
                fn node_json() {
                    super::check_node($scenario, "json");
                }

                #[test]
                fn node_protobuf() {
                    super::check_node($scenario, "protobuf");
                }

                #[test]
                fn browser_json() {
                    super::check_browser($scenario, "json");
                }

                #[test]
                fn browser_protobuf() {
                    super::check_browser($scenario, "protobuf");
                }
            }
        )*
    };
}

scenarios! {
    publications: "pubsub";
    presence: "presence";
    recovery: "recovery";
    storm: "storm";
    restart: "restart";
    tokens: "tokens";
    server_side: "serverSide";
    maps: "maps";
    deltas: "deltas";
    filters: "filters";
    cache: "cache";
}
