//! What a fuzzer runs: each target takes any bytes and panics where a promise is broken.
//!
//! The targets are ordinary functions, so that three things can run them: cargo-fuzz with `fuzz_targets/`, which needs
//! a nightly compiler; the same programs built without a fuzzer, which replay the files they are given; and
//! `tests/seeds.rs`, which runs them over the seeds and thousands of inputs made from these. A target looks at nothing
//! but its input, so that an input that fails once fails always.

mod compression;
mod conversation;
mod frames;
mod handshake;
mod input;
mod names;
mod text;

/// A function that takes any bytes and panics where a promise is broken.
pub type Target = fn(&[u8]);

/// All targets, by the name of their program and of their directory of seeds.
pub const TARGETS: [(&str, Target); 10] = [
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
];

/// Runs the target called `name`.
///
/// # Panics
/// If there is no such target, and where a promise is broken.
pub fn run(name: &str, input: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target of this name");
    target(input);
}

/// Runs the target called `name` with each of the files that are the program's arguments.
pub fn replay(name: &str) {
    for path in std::env::args_os().skip(1) {
        let input = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        run(name, &input);
        println!("{name}: {}: fine", path.display());
    }
}

/// The program of a target: a fuzzer's where it is built for one, otherwise one that replays files.
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
