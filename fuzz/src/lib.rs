//! The fuzz targets: each takes any bytes and panics if a promise is broken.
//!
//! The targets are ordinary functions with three callers: cargo-fuzz with `fuzz_targets/`, which requires a nightly
//! compiler; the same programs built without a fuzzer, which replay the given files; and `tests/seeds.rs`, which runs
//! them on the seeds and on thousands of inputs derived from these. A target depends only on its input, so that a
//! failing input always fails.

mod commands;
mod compression;
mod conversation;
mod frames;
mod handshake;
mod input;
mod names;
mod proxies;
mod records;
mod settings;
mod stomp;
mod text;

/// A function that takes any bytes and panics if a promise is broken.
pub type Target = fn(&[u8]);

/// All targets, with the name of their program and of their directory of seeds.
pub const TARGETS: [(&str, Target); 18] = [
    ("decoder", frames::decoder),
    ("differential", frames::differential),
    ("conversation", conversation::conversation),
    ("request", handshake::request),
    ("response", handshake::response),
    ("extensions", handshake::extensions),
    ("inflate", compression::inflate),
    ("deflate", compression::deflate),
    ("text", text::text),
    ("names", names::names),
    ("json", commands::json),
    ("protobuf", commands::protobuf),
    ("settings", settings::settings),
    ("proxied", proxies::proxied),
    ("forwarded", proxies::forwarded),
    ("stomp", stomp::stomp),
    ("hello", records::hello),
    ("records", records::records),
];

/// Runs the target called `name`.
///
/// # Panics
/// If there is no such target, or if a promise is broken.
pub fn run(name: &str, input: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target of this name");
    target(input);
}

/// Runs the target called `name` on each of the files given as arguments.
pub fn replay(name: &str) {
    for path in std::env::args_os().skip(1) {
        let input = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        run(name, &input);
        println!("{name}: {}: fine", path.display());
    }
}

/// Defines the program of a target: a fuzzer if built for one, otherwise a program that replays files.
#[macro_export]
macro_rules! target {
    ($name:ident) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|input: &[u8]| $crate::run(stringify!($name), input));

        #[cfg(not(fuzzing))]
        fn main() {
            $crate::replay(stringify!($name));
        }
    };
}
