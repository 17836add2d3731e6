//! A DPO run on real text: see `dpo-train --help`.

mod args;
mod batches;
mod data;
mod dpo;
mod history;
mod model;
mod optimizer;
mod plot;
mod sft;
mod tokenizer;
mod train;
mod weights;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match train::run(&args::Args::parse(), train::MODEL, &mut std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
