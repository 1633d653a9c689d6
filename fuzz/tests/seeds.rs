//! Runs the fuzz targets without a fuzzer: on their seeds, on all prefixes of them, and on inputs derived from them by
//! pseudo-random changes with a fixed seed. This keeps targets and seeds working, and repeats earlier findings as
//! regression tests.

use std::fs;
use std::path::Path;

use ringfeed_fuzz::{TARGETS, Target};

/// Derived inputs per target.
const INPUTS: u64 = 3_000;

/// Largest seed in bytes, to keep the repository small.
const SEED_BYTES_MAX: usize = 4096;

/// The seeds of a target: files below `seeds/<name>`.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name);
    let mut paths: Vec<_> = fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.expect("a directory can be read").path())
        .collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a seed can be read")).collect()
}

/// Deterministic random numbers (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// Changes `input` in one place.
fn change(input: &mut Vec<u8>, numbers: &mut Numbers, others: &[Vec<u8>]) {
    let place = numbers.below(input.len() + 1);
    match numbers.below(6) {
        0 if place < input.len() => input[place] ^= 1 << numbers.below(8),
        1 if place < input.len() => input[place] = [0, 1, 0x7e, 0x7f, 0x80, 0xfe, 0xff, b' '][numbers.below(8)],
        2 => input.truncate(place),
        3 => input.insert(place, numbers.next() as u8),
        4 if place < input.len() => _ = input.remove(place),
        _ => {
            let other = &others[numbers.below(others.len())];
            input.truncate(place);
            input.extend_from_slice(&other[numbers.below(other.len() + 1)..]);
        }
    }
}

fn run(name: &str, target: Target, input: &[u8]) {
    if std::panic::catch_unwind(|| target(input)).is_err() {
        panic!("{name} fails with \"{}\"", input.escape_ascii());
    }
}

#[test]
fn targets_hold_for_their_seeds_and_derived_inputs() {
    for (name, target) in TARGETS {
        let seeds = seeds(name);
        assert!(!seeds.is_empty(), "{name} has no seeds");
        for seed in &seeds {
            assert!(seed.len() <= SEED_BYTES_MAX, "{name} has a seed of {} bytes", seed.len());
            let step = (seed.len() / 256).max(1);
            (0..seed.len()).step_by(step).for_each(|len| run(name, target, &seed[..len]));
            run(name, target, seed);
        }
        let mut numbers = Numbers(1);
        for _ in 0..INPUTS {
            let mut input = seeds[numbers.below(seeds.len())].clone();
            for _ in 0..=numbers.below(4) {
                change(&mut input, &mut numbers, &seeds);
            }
            run(name, target, &input);
        }
    }
}

#[test]
fn each_target_has_a_program() {
    for (name, _) in TARGETS {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz_targets").join(format!("{name}.rs"));
        let program = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(program.contains(&format!("target!({name});")), "{program}");
    }
}
