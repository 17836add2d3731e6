//! The run: warm-up, reference, DPO, report.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail, ensure};
use candle_core::Device;
use dpo_kernels::Error;
use dpo_kernels::ref_cache::{Fingerprint, Problem, RefCache};
use dpo_kernels_candle::{PairLoss, PairMetrics};
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::{Args, DeviceKind};
use crate::batches::{PairTokens, Shuffle, Truncated, tokenize};
use crate::checkpoint::{Checkpoint, Phase, Tensors};
use crate::data::{Pair, read_pairs};
use crate::dpo::{self, EVAL_PAIRS, ScoredPair, Start};
use crate::history::{History, Row};
use crate::memory::{self, Pass};
use crate::model::{Config, Transformer};
use crate::optimizer::Optimizer;
use crate::tokenizer::{Tokens, TruncationMode, VOCAB};
use crate::weights::Weights;
use crate::{plot, sft};

/// The model of `make train`.
pub const MODEL: Config = Config { vocab: VOCAB, dim: 128, heads: 4, layers: 2 };

/// The file in the folder of a run that `--resume` goes on from.
pub const CHECKPOINT: &str = "run.checkpoint";

/// Makes the run that `args` describe with a model of size `config`, and writes its report to `out`. Where `stop` is
/// true after a step, it leaves a checkpoint and ends there with the error [`Interrupted`].
///
/// The same arguments give the same report: no clock and no unseeded draw goes into it. A run that was cut off and goes
/// on with `--resume` gives the same files.
pub fn run(args: &Args, config: Config, stop: &AtomicBool, out: &mut impl Write) -> Result<()> {
    let loss = pair_loss(args)?;
    let device = device(args.device)?;
    let train_pairs = read_pairs(&args.data, &args.ignored_keys)?;
    let held_out_pairs = read_pairs(&args.eval_data, &args.ignored_keys)?;
    let train = limited(args, &args.data, &train_pairs, out)?;
    let held_out = limited(args, &args.eval_data, &held_out_pairs, out)?;
    let in_memory = |backward, pairs: &[PairTokens], pairs_per_batch, file| {
        let pass = Pass { backward, start: start(args) };
        memory::check(config, pass, pairs, pairs_per_batch, file, args.max_length, &device)
    };
    in_memory(true, &train, args.batch, &args.data)?;
    in_memory(false, &held_out, EVAL_PAIRS.min(held_out.len()), &args.eval_data)?;
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot create {}", args.out.display()))?;
    let (weights, policy) = Weights::seeded(config, args.seed, &device)?;
    writeln!(
        out,
        "{} training pairs, {} held-out pairs ({} with a prompt seen in training), {} parameters",
        train.len(),
        held_out.len(),
        seen_prompts(&train_pairs, &held_out_pairs),
        weights.count(),
    )?;

    let settings = settings(args, config, &train, &held_out);
    let checkpoint = match args.resume {
        true => last_checkpoint(args, &settings, &device, out)?,
        false => None,
    };
    let lines = checkpoint.as_ref().map_or("", |checkpoint| &checkpoint.metrics);
    let history = History::begin(&args.out.join("metrics.csv"), lines)?;
    let ref_logps = Tensors::new();
    let mut run = Run { args, loss, device, stop, settings, weights, policy, ref_logps, history };
    let (in_warm_up, in_dpo) = match checkpoint {
        Some(checkpoint) if checkpoint.phase == Phase::Dpo => (None, Some(checkpoint)),
        checkpoint => (checkpoint, None),
    };
    if in_dpo.is_none() {
        run.warm_up(&train, in_warm_up.as_ref(), out)?;
        run.score(&train, &held_out, out)?;
    }
    run.optimize_preferences(train, held_out, in_dpo.as_ref(), out)?;

    run.weights.save(&args.out.join("policy.safetensors"))?;
    plot::save(&run.history, &args.out.join("curves.png"))?;
    write_report(out, &args.out, &run.history)
}

/// The error of a run that was told to stop.
#[derive(Debug)]
pub struct Interrupted {
    phase: Phase,
    step: usize,
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stopped after {} step {}: --resume goes on from there", self.phase, self.step)
    }
}

impl std::error::Error for Interrupted {}

/// A run under way.
struct Run<'a> {
    args: &'a Args,
    loss: PairLoss,
    device: Device,
    stop: &'a AtomicBool,
    settings: BTreeMap<String, String>,
    weights: Weights,
    /// Computes with `weights`, as they are at the time.
    policy: Transformer,
    /// Of the `train` and `held_out` pairs, from the end of the warm-up on.
    ref_logps: Tensors,
    history: History,
}

impl Run<'_> {
    fn start(&self) -> Start {
        start(self.args)
    }

    /// Supervised training on the chosen answers.
    fn warm_up(
        &mut self,
        train: &[PairTokens],
        checkpoint: Option<&Checkpoint>,
        out: &mut impl Write,
    ) -> Result<()> {
        let Args { sft_steps, sft_lr, batch, seed, eval_every, .. } = *self.args;
        let mut optimizer = Optimizer::new(self.weights.vars(), sft_lr, sft_steps)?;
        let done = self.go_on(checkpoint, &mut optimizer)?;
        let mut shuffle = Shuffle::new(train.len(), seed).after(done * 2 * batch);
        let bar = progress_bar("warm-up", done, sft_steps);
        for step in done + 1..=sft_steps {
            let chosen: Vec<_> = shuffle.draw(2 * batch).into_iter().map(|i| &train[i].chosen).collect();
            let loss = sft::loss(&self.policy, &chosen, &self.device)?;
            optimizer.backward_step(&loss)?;
            self.history.push(Row::WarmUp { step, loss: loss.to_scalar()? })?;
            bar.inc(1);
            let due = step % eval_every == 0 || step == sft_steps;
            self.after_step(Phase::WarmUp, step, due, &optimizer)?;
        }
        bar.finish_and_clear();
        if let Some((step, loss)) = self.history.warm_up().next_back() {
            writeln!(out, "warm-up step {step}: {loss:.4} nats per token")?;
        }
        Ok(())
    }

    /// The weights as they are now become the reference, which scores all pairs.
    fn score(&mut self, train: &[PairTokens], held_out: &[PairTokens], out: &mut impl Write) -> Result<()> {
        self.weights.save(&self.args.out.join("reference.safetensors"))?;
        let reference = self.weights.frozen_copy()?;
        let mut cache = self.ref_cache(out)?;
        for (name, pairs) in [("train", train), ("held_out", held_out)] {
            let ref_logps = dpo::ref_logps(&reference, pairs, self.start(), cache.as_mut(), &self.device)?;
            self.ref_logps.insert(name.to_string(), ref_logps);
        }
        if let Some(cache) = &mut cache {
            cache.save()?;
        }
        Ok(())
    }

    /// The log-probs that an earlier run has left of a reference with the weights as they are now.
    fn ref_cache(&self, out: &mut impl Write) -> Result<Option<RefCache>> {
        if self.args.no_ref_cache {
            return Ok(None);
        }
        let (path, fingerprint) = (self.args.out.join("ref_logps.cache"), self.weights.fingerprint()?);
        // Logits of another product have other last bits.
        let fingerprint = fingerprint.with("losses start from", format!("{:?}", self.start()));
        let cache = match RefCache::open(&path, fingerprint) {
            // Another seed, other data, another number of steps: the file is of that run's reference.
            Err(Error::RefCache { problem: Problem::Stale { .. }, .. }) => {
                writeln!(out, "{} is of another reference: starting anew", path.display())?;
                RefCache::create(&path, fingerprint)?
            }
            cache => cache?,
        };
        writeln!(out, "reference log-probs known of {} sequences", cache.len())?;
        Ok(Some(cache))
    }

    /// DPO on the pairs, with a look at the held-out ones now and then.
    fn optimize_preferences(
        &mut self,
        train: Vec<PairTokens>,
        held_out: Vec<PairTokens>,
        checkpoint: Option<&Checkpoint>,
        out: &mut impl Write,
    ) -> Result<()> {
        let Args { steps, lr, batch, seed, eval_every, .. } = *self.args;
        let mut optimizer = Optimizer::new(self.weights.vars(), lr, steps)?;
        let done = self.go_on(checkpoint, &mut optimizer)?;
        let ref_logps =
            |name: &str| self.ref_logps.get(name).with_context(|| format!("no log-probs of {name}"));
        let train = dpo::scored(train, ref_logps("train")?)?;
        let held_out = dpo::scored(held_out, ref_logps("held_out")?)?;
        if checkpoint.is_none() {
            self.evaluate(0, &held_out)?;
            self.after_step(Phase::Dpo, 0, true, &optimizer)?;
        }
        let mut shuffle = Shuffle::new(train.len(), seed).after(done * batch);
        let bar = progress_bar("DPO", done, steps);
        for step in done + 1..=steps {
            let pairs: Vec<_> = shuffle.draw(batch).into_iter().map(|i| &train[i]).collect();
            let output = dpo::loss(&self.policy, &pairs, &self.loss, self.start(), &self.device)?;
            output.status()?.check()?;
            optimizer.backward_step(&output.loss)?;
            self.history.push(Row::Train { step, metrics: output.metrics()? })?;
            bar.inc(1);
            let due = step % eval_every == 0 || step == steps;
            if due {
                let metrics = self.evaluate(step, &held_out)?;
                bar.suspend(|| write_step(out, step, &metrics))?;
            }
            self.after_step(Phase::Dpo, step, due, &optimizer)?;
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Judges the policy, as it is after `step` DPO steps, by the held-out pairs.
    fn evaluate(&mut self, step: usize, held_out: &[ScoredPair]) -> Result<PairMetrics<f32>> {
        let evaluation = dpo::evaluate(&self.policy, held_out, &self.loss, self.start(), &self.device)?;
        self.history.push(Row::HeldOut { step, evaluation })?;
        Ok(evaluation.metrics)
    }

    /// Takes up what a checkpoint of this phase left, and says how many steps it has done.
    fn go_on(&mut self, checkpoint: Option<&Checkpoint>, optimizer: &mut Optimizer) -> Result<usize> {
        let Some(checkpoint) = checkpoint else { return Ok(0) };
        self.weights.set(&checkpoint.weights)?;
        self.ref_logps.clone_from(&checkpoint.ref_logps);
        optimizer.resume(checkpoint.step, &checkpoint.first_moments, &checkpoint.second_moments)?;
        Ok(checkpoint.step)
    }

    /// Leaves a checkpoint where one is due or the run is to stop, and then stops it.
    fn after_step(&self, phase: Phase, step: usize, due: bool, optimizer: &Optimizer) -> Result<()> {
        let stop = self.stop.load(Ordering::Relaxed);
        if due || stop {
            let (first_moments, second_moments) = optimizer.moments();
            let checkpoint = Checkpoint {
                settings: self.settings.clone(),
                phase,
                step,
                metrics: self.history.csv(),
                weights: self.weights.tensors(),
                first_moments,
                second_moments,
                ref_logps: self.ref_logps.clone(),
            };
            checkpoint.save(&self.args.out.join(CHECKPOINT))?;
        }
        if stop { Err(Interrupted { phase, step }.into()) } else { Ok(()) }
    }
}

/// What the losses of a run start from.
fn start(args: &Args) -> Start {
    if args.logits || args.device == DeviceKind::Cuda { Start::Logits } else { Start::Hidden }
}

/// The tokens of the pairs of a file, within `--max-length`; what that cuts off is reported.
fn limited(args: &Args, file: &Path, pairs: &[Pair], out: &mut impl Write) -> Result<Vec<PairTokens>> {
    let (max_length, file) = (args.max_length, file.display());
    let (tokens, Truncated { sequences, left_out }) = tokenize(pairs, max_length, args.truncation_mode);
    let end = match args.truncation_mode {
        TruncationMode::KeepStart => "end",
        TruncationMode::KeepEnd => "start",
    };
    if sequences > 0 {
        let of = 2 * pairs.len();
        writeln!(out, "{file}: {sequences} of {of} sequences lose their {end} to --max-length {max_length}")?;
    }
    if let Some(first) = left_out.first() {
        let count = left_out.len();
        writeln!(
            out,
            "{file}: {count} pairs left out, the first on line {first}: nothing of an answer, or no \
             difference between the answers, is within --max-length {max_length}"
        )?;
    }
    ensure!(!tokens.is_empty(), "{file}: no pair is left within --max-length {max_length}");
    Ok(tokens)
}

/// What the figures of a run follow from: the arguments by their names, the tokens and their order as hashes.
fn settings(
    args: &Args,
    config: Config,
    train: &[PairTokens],
    held_out: &[PairTokens],
) -> BTreeMap<String, String> {
    let bytes = |tokens: &Tokens| -> Vec<u8> {
        let (ids, labels) = (tokens.ids.iter(), tokens.labels.iter());
        ids.flat_map(|id| id.to_le_bytes()).chain(labels.flat_map(|label| label.to_le_bytes())).collect()
    };
    let hash = |pairs: &[PairTokens]| {
        let start = Fingerprint::new("pairs", pairs.len().to_le_bytes());
        pairs.iter().fold(start, |hash, pair| {
            hash.with("chosen", bytes(&pair.chosen)).with("rejected", bytes(&pair.rejected))
        })
    };
    let order = Shuffle::new(train.len(), args.seed).draw(train.len());
    let order: Vec<u8> = order.into_iter().flat_map(usize::to_le_bytes).collect();
    [
        ("version of dpo-train", env!("CARGO_PKG_VERSION").to_string()),
        ("model", format!("{config:?}")),
        ("training pairs", hash(train).to_string()),
        ("held-out pairs", hash(held_out).to_string()),
        ("order of the training pairs", Fingerprint::new("order", order).to_string()),
        ("--device", format!("{:?}", args.device)),
        ("--logits", (start(args) == Start::Logits).to_string()),
        ("--seed", args.seed.to_string()),
        ("--batch", args.batch.to_string()),
        ("--sft-steps", args.sft_steps.to_string()),
        ("--sft-lr", args.sft_lr.to_string()),
        ("--steps", args.steps.to_string()),
        ("--lr", args.lr.to_string()),
        ("--eval-every", args.eval_every.to_string()),
        ("--loss", args.loss.clone()),
        ("--beta", args.beta.map_or("the loss's own".to_string(), |beta| beta.to_string())),
        ("--label-smoothing", args.label_smoothing.to_string()),
        ("--length-normalized", args.length_normalized.to_string()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_string(), value))
    .collect()
}

/// The checkpoint in the run's folder, if there is one; it must be of a run with these settings.
fn last_checkpoint(
    args: &Args,
    settings: &BTreeMap<String, String>,
    device: &Device,
    out: &mut impl Write,
) -> Result<Option<Checkpoint>> {
    let path = args.out.join(CHECKPOINT);
    let checkpoint = Checkpoint::open(&path, device)?;
    match &checkpoint {
        Some(checkpoint) => {
            checkpoint.check(settings).with_context(|| path.display().to_string())?;
            writeln!(out, "going on after {} step {}", checkpoint.phase, checkpoint.step)?;
        }
        None => writeln!(out, "no checkpoint at {}: starting at the beginning", path.display())?,
    }
    Ok(checkpoint)
}

fn pair_loss(args: &Args) -> Result<PairLoss> {
    let mut loss = match args.beta {
        Some(beta) => PairLoss::named(&args.loss, beta)?,
        None => args.loss.parse()?,
    };
    if args.label_smoothing != 0.0 {
        loss = loss.with_label_smoothing(args.label_smoothing)?;
    }
    if loss.estimates_baseline() {
        // It would be estimated from answers to other prompts, which no model scores here.
        loss = loss.with_baseline(0.0)?;
    }
    Ok(if args.length_normalized { loss.with_length_normalization() } else { loss })
}

fn device(kind: DeviceKind) -> Result<Device> {
    match kind {
        DeviceKind::Cpu => Ok(Device::Cpu),
        DeviceKind::Cuda if cfg!(feature = "cuda") => Device::new_cuda(0).context("--device cuda"),
        DeviceKind::Cuda => bail!("--device cuda: this build has no CUDA; build with `--features cuda`"),
    }
}

fn seen_prompts(train: &[Pair], held_out: &[Pair]) -> usize {
    let prompts: HashSet<_> = train.iter().map(|pair| &pair.prompt).collect();
    held_out.iter().filter(|pair| prompts.contains(&pair.prompt)).count()
}

/// A bar on standard error; nothing is drawn where that is no terminal.
fn progress_bar(phase: &'static str, done: usize, steps: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:8} [{bar:40}] {pos}/{len}, {eta} left")
        .expect("a valid template")
        .progress_chars("=> ");
    ProgressBar::new(steps as u64).with_style(style).with_prefix(phase).with_position(done as u64)
}

fn write_step(out: &mut impl Write, step: usize, held_out: &PairMetrics<f32>) -> std::io::Result<()> {
    let PairMetrics { loss, chosen_reward, rejected_reward, margin, accuracy, .. } = held_out;
    writeln!(
        out,
        "DPO step {step}: held-out loss {loss:.4}, rewards {chosen_reward:.3} chosen, \
         {rejected_reward:.3} rejected, margin {margin:.3}, accuracy {accuracy:.3}"
    )
}

fn write_report(out: &mut impl Write, folder: &Path, history: &History) -> Result<()> {
    writeln!(out, "wrote metrics.csv, curves.png and weights to {}", folder.display())?;
    let evaluation = |row: Option<(usize, dpo::Evaluation)>| row.context("no evaluation in the metrics");
    let (_, before) = evaluation(history.held_out().next())?;
    let (_, after) = evaluation(history.held_out().next_back())?;
    let mut line =
        |name: &str, before: f32, after: f32| writeln!(out, "held-out {name}: {before:.3} -> {after:.3}");
    line("preference accuracy", before.preference_accuracy, after.preference_accuracy)?;
    line("mean margin", before.metrics.margin, after.metrics.margin)?;
    line("loss", before.metrics.loss, after.metrics.loss)?;
    line("reward accuracy", before.metrics.accuracy, after.metrics.accuracy)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use clap::Parser;

    use super::*;

    const TINY: Config = Config { vocab: VOCAB, dim: 8, heads: 2, layers: 1 };

    /// A run of a few steps on a few pairs, with more arguments: its report, and the folder it wrote.
    fn tiny_run(more: &[&str]) -> Result<(String, tempfile::TempDir)> {
        let folder = tempfile::tempdir()?;
        Ok((tiny_run_in(folder.path(), more)?, folder))
    }

    /// The same in a folder where there may have been one before.
    fn tiny_run_in(folder: &Path, more: &[&str]) -> Result<String> {
        let mut pairs = String::new();
        for i in 0..5 {
            writeln!(pairs, r#"{{"prompt": "{i}?", "chosen": "Yes, {i}.", "rejected": "No {i}"}}"#)?;
        }
        let data = folder.join("pairs.jsonl");
        std::fs::write(&data, pairs)?;
        let args = Args::parse_from(
            ["dpo-train", "--batch=2", "--sft-steps=3", "--steps=4", "--eval-every=2"].iter().chain(more),
        );
        let out = folder.join("out");
        let mut report = Vec::new();
        let never = AtomicBool::new(false);
        run(&Args { data: data.clone(), eval_data: data, out, ..args }, TINY, &never, &mut report)?;
        // The folder's name is the one thing that differs.
        Ok(String::from_utf8(report)?.replace(&folder.display().to_string(), ""))
    }

    const WRITTEN: [&str; 4] = ["metrics.csv", "curves.png", "reference.safetensors", "policy.safetensors"];

    fn bytes(folder: &Path, file: &str) -> Vec<u8> {
        std::fs::read(folder.join("out").join(file)).unwrap()
    }

    #[test]
    fn one_seed_gives_one_run_and_another_seed_another() {
        let (first, folder) = tiny_run(&["--seed=1"]).unwrap();
        let (again, other_folder) = tiny_run(&["--seed=1"]).unwrap();
        assert_eq!(first, again);
        for file in WRITTEN.into_iter().chain(["ref_logps.cache"]) {
            assert_eq!(bytes(folder.path(), file), bytes(other_folder.path(), file), "{file}");
        }
        assert_ne!(first, tiny_run(&["--seed=2"]).unwrap().0);
    }

    #[test]
    fn a_run_with_a_cache_is_the_run_without() {
        let (without, plain) = tiny_run(&["--no-ref-cache", "--loss=ipo"]).unwrap();
        assert!(!plain.path().join("out/ref_logps.cache").exists());
        // Of the same reference, though it was made for another loss.
        let (_, folder) = tiny_run(&["--loss=sigmoid"]).unwrap();
        let cache = bytes(folder.path(), "ref_logps.cache");
        let with = tiny_run_in(folder.path(), &["--loss=ipo"]).unwrap();
        // Five pairs, training and held-out ones alike.
        let known = "reference log-probs known of 10 sequences\n";
        assert!(with.contains(known), "{with}");
        assert_eq!(with.replace(known, ""), without);
        for file in WRITTEN {
            assert_eq!(bytes(folder.path(), file), bytes(plain.path(), file), "{file}");
        }
        assert_eq!(bytes(folder.path(), "ref_logps.cache"), cache);
    }

    #[test]
    fn a_cache_of_another_reference_is_not_used() {
        let (_, folder) = tiny_run(&["--seed=1"]).unwrap();
        let again = tiny_run_in(folder.path(), &["--seed=2"]).unwrap();
        assert!(again.contains("ref_logps.cache is of another reference: starting anew\n"), "{again}");
        let (_, fresh) = tiny_run(&["--seed=2"]).unwrap();
        for file in WRITTEN.into_iter().chain(["ref_logps.cache"]) {
            assert_eq!(bytes(folder.path(), file), bytes(fresh.path(), file), "{file}");
        }
    }

    #[test]
    fn a_damaged_cache_is_an_error_that_names_it() {
        let (_, folder) = tiny_run(&[]).unwrap();
        let path = folder.path().join("out/ref_logps.cache");
        let mut damaged = std::fs::read(&path).unwrap();
        damaged[50] ^= 1;
        std::fs::write(&path, damaged).unwrap();
        let error = tiny_run_in(folder.path(), &[]).unwrap_err().to_string();
        assert!(error.contains("ref_logps.cache: expected a checksum of "), "{error}");
        assert!(error.ends_with(": delete it, and it is computed anew"), "{error}");
    }

    #[test]
    fn the_last_line_tells_the_accuracy_from_zero() {
        let (report, folder) = tiny_run(&["--length-normalized", "--label-smoothing=0.1"]).unwrap();
        let last = report.lines().next_back().unwrap();
        assert!(last.starts_with("held-out reward accuracy: 0.000 -> "), "{last}");
        assert!(report.contains("held-out mean margin: 0.000 -> "), "{report}");
        let csv = std::fs::read_to_string(folder.path().join("out/metrics.csv")).unwrap();
        // Header, 3 warm-up steps, 4 DPO steps, held-out pairs before, halfway and after.
        assert_eq!(csv.lines().count(), 1 + 3 + 4 + 3);
        assert!(csv.lines().all(|line| line.split(',').count() == 9));
    }

    #[test]
    fn every_loss_runs() {
        for name in dpo_kernels_candle::ALL.iter().flat_map(|info| info.names()) {
            let (report, _folder) = tiny_run(&["--loss", name]).unwrap();
            assert!(report.contains("held-out loss: ") && !report.contains("NaN"), "{name}: {report}");
        }
    }

    #[test]
    fn what_max_length_cuts_is_reported() {
        // BOS, role, "0?", END, role, "Yes, 0." or "No 0", END: 14 and 11 tokens.
        let report = |more: &[&str]| tiny_run(more).unwrap().0;
        assert!(!report(&["--max-length=14"]).contains("--max-length"));
        let cut = report(&["--max-length=13"]);
        assert!(cut.contains("pairs.jsonl: 5 of 10 sequences lose their end to --max-length 13\n"), "{cut}");
        let cut = report(&["--max-length=10", "--truncation-mode=keep-end"]);
        assert!(
            cut.contains("pairs.jsonl: 10 of 10 sequences lose their start to --max-length 10\n"),
            "{cut}"
        );
        let error = tiny_run(&["--max-length=6"]).unwrap_err().to_string();
        assert!(error.ends_with("pairs.jsonl: no pair is left within --max-length 6"), "{error}");
    }

    #[test]
    fn bad_arguments_are_named() {
        let message = |flag| tiny_run(&[flag]).expect_err("an error").to_string();
        assert!(message("--beta=-1").starts_with("beta: expected"));
        assert!(message("--beta=0").starts_with("beta: expected"), "{}", message("--beta=0"));
        assert!(message("--loss=ppo").starts_with("loss: expected one of sigmoid, dpo,"));
        assert!(message("--label-smoothing=0.6").starts_with("label_smoothing: expected"));
        for flag in ["--steps=0", "--batch=0", "--lr=-1", "--sft-lr=nan", "--device=tpu"] {
            let error = Args::try_parse_from(["dpo-train", flag]).unwrap_err().to_string();
            assert!(error.contains(flag.split('=').next().unwrap()), "{error}");
        }
        #[cfg(not(feature = "cuda"))]
        assert!(message("--device=cuda").contains("--features cuda"));
    }
}
