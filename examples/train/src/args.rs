//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::tokenizer::TruncationMode;

/// Trains a small byte-level transformer on preference pairs: supervised warm-up on the chosen answers, then
/// Direct Preference Optimization against a frozen copy.
#[derive(Debug, Clone, Parser)]
#[command(version)]
pub struct Args {
    /// Training pairs, in Hugging Face's preference formats: JSONL (or one JSON list) of objects with "chosen",
    /// "rejected" and, unless these begin with it, "prompt"; strings or lists of messages
    #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/data/train.jsonl"))]
    pub data: PathBuf,

    /// Held-out pairs, in the same form
    #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/data/eval.jsonl"))]
    pub eval_data: PathBuf,

    /// A key of the pairs that may be ignored, such as an id or a score; any other unknown key is an error
    #[arg(long = "ignore-key", value_name = "KEY")]
    pub ignored_keys: Vec<String>,

    /// Most tokens (bytes of text, roughly) of prompt and answer together; what is cut is counted and reported
    #[arg(long, default_value_t = 512, value_parser = at_least_one)]
    pub max_length: usize,

    /// What is kept of a prompt and answer that are longer
    #[arg(long, value_enum, default_value_t = TruncationMode::KeepStart)]
    pub truncation_mode: TruncationMode,

    /// Folder for metrics.csv, curves.png, reference.safetensors, policy.safetensors, ref_logps.cache and run.checkpoint
    #[arg(long, value_name = "DIR", default_value = "target/train")]
    pub out: PathBuf,

    /// Where to train
    #[arg(long, value_enum, default_value_t = DeviceKind::Cpu)]
    pub device: DeviceKind,

    /// Seed of the initial weights and of the order of the pairs
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// Pairs per DPO step; the warm-up takes twice as many chosen answers per step
    #[arg(long, default_value_t = 8, value_parser = at_least_one)]
    pub batch: usize,

    /// Steps of the supervised warm-up
    #[arg(long, default_value_t = 100)]
    pub sft_steps: usize,

    /// Peak learning rate of the supervised warm-up
    #[arg(long, default_value_t = 3e-3, value_parser = positive)]
    pub sft_lr: f64,

    /// DPO steps
    #[arg(long, default_value_t = 80, value_parser = at_least_one)]
    pub steps: usize,

    /// Peak learning rate of DPO
    #[arg(long, default_value_t = 1.5e-4, value_parser = positive)]
    pub lr: f64,

    /// Go on from the checkpoint in the folder of --out, with the arguments of the run that left it, to the same figures;
    /// where there is none, start at the beginning
    #[arg(long)]
    pub resume: bool,

    /// DPO steps from one look at the held-out pairs to the next. Each look leaves a checkpoint, and so do as many steps
    /// of the warm-up, and Ctrl-C
    #[arg(long, default_value_t = 20, value_parser = at_least_one)]
    pub eval_every: usize,

    /// A loss by its name: dpo (or sigmoid), ipo, simpo, orpo, ... (the README has the table; kto's baseline is 0 here)
    #[arg(long, default_value = "sigmoid")]
    pub loss: String,

    /// Compute the reference's log-probs anew, and do not keep them in ref_logps.cache
    #[arg(long)]
    pub no_ref_cache: bool,

    /// Temperature: how much a nat of log-ratio between policy and reference counts; by default what is usual for the
    /// loss, 0.1 for most
    #[arg(long, allow_negative_numbers = true)]
    pub beta: Option<f32>,

    /// Probability that a preference is flipped, from 0 to 0.5 (conservative DPO)
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub label_smoothing: f32,

    /// Make a tensor of logits for the loss, rather than start from hidden states through the fused head; on a GPU it is so
    /// anyway
    #[arg(long)]
    pub logits: bool,

    /// Divide each log-ratio by the number of scored tokens
    #[arg(long)]
    pub length_normalized: bool,
}

/// Where the tensors live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DeviceKind {
    /// The processor
    Cpu,
    /// The first NVIDIA GPU; needs a build with `--features cuda`
    Cuda,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err("expected a whole number above 0".to_string()),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err("expected a finite number above 0".to_string()),
    }
}
