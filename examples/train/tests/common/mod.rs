//! A short run of a tiny model.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use clap::Parser;
use dpo_train::args::Args;
use dpo_train::model::Config;
use dpo_train::train;

const TINY: Config = Config { dim: 8, heads: 2, layers: 1, ..train::MODEL };

/// What a run leaves that does not depend on when it was cut off.
pub const FIGURES: [&str; 4] = ["metrics.csv", "curves.png", "reference.safetensors", "policy.safetensors"];

/// The arguments of a run in `folder`, which gets its data if it has none yet.
pub fn args(folder: &Path, more: &[&str]) -> Args {
    let data = folder.join("pairs.jsonl");
    if !data.exists() {
        let mut pairs = String::new();
        for i in 0..5 {
            writeln!(pairs, r#"{{"prompt": "{i}?", "chosen": "Yes, {i}.", "rejected": "No {i}"}}"#).unwrap();
        }
        std::fs::write(&data, pairs).unwrap();
    }
    let few = ["dpo-train", "--batch=2", "--sft-steps=7", "--steps=9", "--eval-every=2"];
    let args = Args::parse_from(few.iter().chain(more));
    Args { data: data.clone(), eval_data: data, out: folder.join("out"), ..args }
}

/// Makes the run, one step of it if it is to `stop`, and returns its report.
pub fn run(args: &Args, stop: bool) -> Result<String> {
    let mut report = Vec::new();
    train::run(args, TINY, &AtomicBool::new(stop), &mut report)?;
    Ok(String::from_utf8(report)?)
}

/// The figures of the run in `folder`.
pub fn figures(folder: &Path) -> Vec<Vec<u8>> {
    FIGURES.iter().map(|file| std::fs::read(folder.join("out").join(file)).unwrap()).collect()
}

/// The part of a report that tells what was learned.
pub fn result(report: &str) -> &str {
    &report[report.find("held-out preference accuracy").unwrap()..]
}
