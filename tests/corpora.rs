//! The fuzz targets' corpora, replayed on stable: no input panics, nor do small changes of it.

use std::collections::BTreeSet;
use std::path::Path;

use thalweg::rng::Dice;

#[path = "../fuzz/src/lib.rs"]
#[allow(dead_code, unreachable_pub, reason = "the same file is the library of the fuzz workspace")]
mod targets;

/// Mutations of each input; more where `THALWEG_FUZZ_ROUNDS` says so.
const ROUNDS: u32 = 400;
/// Longest input kept.
const LONGEST: usize = 4096;

fn inputs(name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        (path.display().to_string(), std::fs::read(&path).unwrap())
    };
    let mut inputs: Vec<_> = entries.map(read).collect();
    inputs.sort();
    inputs
}

/// One to four small changes: a bit, a byte, a cut, a doubling, a piece of another input.
fn mutate(dice: &mut Dice, input: &[u8], others: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len().max(1) as u64) as usize;
        match dice.below(7) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at.min(bytes.len()), dice.below(256) as u8),
            2 if !bytes.is_empty() => bytes[at] ^= 1 << dice.below(8),
            3 if !bytes.is_empty() => bytes[at] = dice.below(256) as u8,
            4 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][dice.below(5) as usize],
            5 => {
                let tail = bytes.split_off(at.min(bytes.len()));
                bytes.extend_from_slice(&tail);
                bytes.extend_from_slice(&tail);
            }
            _ => {
                let (_, other) = &others[dice.below(others.len() as u64) as usize];
                let from = dice.below(other.len().max(1) as u64) as usize;
                bytes.truncate(at);
                bytes.extend_from_slice(other.get(from..).unwrap_or_default());
            }
        }
        bytes.truncate(2 * LONGEST);
    }
    bytes
}

#[test]
fn no_input_and_no_change_of_one_makes_a_target_panic() {
    let rounds = std::env::var("THALWEG_FUZZ_ROUNDS").ok().and_then(|n| n.parse().ok());
    let rounds: u32 = rounds.unwrap_or(ROUNDS);
    for (name, target) in targets::ALL {
        let inputs = inputs(name);
        assert!(!inputs.is_empty(), "fuzz/corpus/{name} is empty");
        let mut dice = Dice::new(name.bytes().map(u64::from).sum());
        for (path, input) in &inputs {
            assert!(input.len() <= LONGEST, "{path} is too long for the tree");
            let run = |bytes: &[u8]| {
                if let Err(panic) = std::panic::catch_unwind(|| target(bytes)) {
                    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
                    println!("{name}, from {path}: {hex}");
                    std::panic::resume_unwind(panic);
                }
            };
            run(input);
            for _ in 0..rounds {
                run(&mutate(&mut dice, input, &inputs));
            }
        }
    }
}

#[test]
fn every_target_has_its_file_and_its_entry() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let files = std::fs::read_dir(root.join("fuzz_targets")).unwrap();
    let files: BTreeSet<String> =
        files.map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    let wanted: BTreeSet<String> = targets::ALL.iter().map(|(n, _)| format!("{n}.rs")).collect();
    assert_eq!(files, wanted);
    let library = std::fs::read_to_string(root.join("src/lib.rs")).unwrap();
    for (name, _) in targets::ALL {
        assert!(manifest.contains(&format!("\nname = \"{name}\"\n")), "{name} in fuzz/Cargo.toml");
        // Nothing here compiles these files: that takes a nightly compiler.
        let text = std::fs::read_to_string(root.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        let entry = library.lines().find(|line| line.contains(&format!("(\"{name}\", ")));
        let function = entry.and_then(|line| line.split_once(", ")).map(|(_, rest)| rest);
        let function = function.unwrap_or_default().trim_end_matches("),");
        assert_eq!(
            text,
            format!(
                "#![no_main]\n\n\
                 libfuzzer_sys::fuzz_target!(|data: &[u8]| thalweg_fuzz::{function}(data));\n"
            )
        );
    }
}

#[test]
fn the_fuzz_workspace_depends_on_what_its_library_uses() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |file: &str| std::fs::read_to_string(root.join(file)).unwrap();
    let dependencies = |manifest: &str| -> BTreeSet<String> {
        let lines = manifest.lines().filter(|line| line.contains(" = "));
        lines
            .filter_map(|line| line.split(['.', ' ']).next())
            .map(|n| n.replace('-', "_"))
            .collect()
    };
    let library = read("fuzz/src/lib.rs");
    let words = library.split(|c: char| !c.is_alphanumeric() && !"_:".contains(c));
    let heads: BTreeSet<String> =
        words.filter_map(|word| Some(word.split_once("::")?.0.to_owned())).collect();
    let used: BTreeSet<_> =
        heads.intersection(&dependencies(&read("Cargo.toml"))).cloned().collect();
    assert!(used.contains("rustls"), "{used:?}");
    assert!(used.is_subset(&dependencies(&read("fuzz/Cargo.toml"))), "{used:?}");
}
