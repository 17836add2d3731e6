//! A DPO run on real text: see `dpo-train --help`.

pub mod args;
mod batches;
pub mod checkpoint;
pub mod data;
mod dpo;
mod history;
mod json;
mod memory;
pub mod model;
mod optimizer;
mod plot;
mod sft;
mod tokenizer;
pub mod train;
mod weights;
mod whole_file;
