//! The run: warm-up, reference, DPO, report.

use std::collections::HashSet;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_core::Device;
use dpo_kernels::Error;
use dpo_kernels::ref_cache::{Problem, RefCache};
use dpo_kernels_candle::{PairLoss, PairMetrics};
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::{Args, DeviceKind};
use crate::batches::{PairTokens, Shuffle};
use crate::data::{Pair, read_pairs};
use crate::dpo::{self, Evaluation, ScoredPair};
use crate::history::History;
use crate::model::{Config, Transformer};
use crate::optimizer::Optimizer;
use crate::tokenizer::VOCAB;
use crate::weights::Weights;
use crate::{plot, sft};

/// The model of `make train`.
pub const MODEL: Config = Config { vocab: VOCAB, dim: 128, heads: 4, layers: 2 };

/// Makes the run that `args` describe with a model of size `config`, and writes its report to `out`.
///
/// The same arguments give the same report: no clock and no unseeded draw goes into it.
pub fn run(args: &Args, config: Config, out: &mut impl Write) -> Result<()> {
    let loss = pair_loss(args)?;
    let device = device(args.device)?;
    let (train, held_out) = (read_pairs(&args.data)?, read_pairs(&args.eval_data)?);
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot create {}", args.out.display()))?;
    let (weights, policy) = Weights::seeded(config, args.seed, &device)?;
    writeln!(
        out,
        "{} training pairs, {} held-out pairs ({} with a prompt seen in training), {} parameters",
        train.len(),
        held_out.len(),
        seen_prompts(&train, &held_out),
        weights.count(),
    )?;
    let train: Vec<PairTokens> = train.iter().map(PairTokens::from).collect();
    let held_out: Vec<PairTokens> = held_out.iter().map(PairTokens::from).collect();
    let mut run = Run { args, loss, device, weights, policy, history: History::default() };

    run.warm_up(&train, out)?;
    run.weights.save(&args.out.join("reference.safetensors"))?;
    let reference = run.weights.frozen_copy()?;
    let mut cache = run.ref_cache(out)?;
    let train = dpo::score(&reference, train, cache.as_mut(), &run.device)?;
    let held_out = dpo::score(&reference, held_out, cache.as_mut(), &run.device)?;
    if let Some(cache) = &mut cache {
        cache.save()?;
    }
    let before = run.evaluate(0, &held_out)?;
    let after = run.optimize_preferences(&train, &held_out, out)?;

    run.weights.save(&args.out.join("policy.safetensors"))?;
    run.history.write_csv(&args.out.join("metrics.csv"))?;
    plot::save(&run.history, &args.out.join("curves.png"))?;
    write_report(out, &args.out, &before, &after)
}

/// A run under way.
struct Run<'a> {
    args: &'a Args,
    loss: PairLoss,
    device: Device,
    weights: Weights,
    /// Computes with `weights`, as they are at the time.
    policy: Transformer,
    history: History,
}

impl Run<'_> {
    /// Supervised training on the chosen answers.
    fn warm_up(&mut self, train: &[PairTokens], out: &mut impl Write) -> Result<()> {
        let Args { sft_steps, sft_lr, batch, seed, .. } = *self.args;
        let mut optimizer = Optimizer::new(self.weights.vars(), sft_lr, sft_steps)?;
        let mut shuffle = Shuffle::new(train.len(), seed);
        let bar = progress_bar("warm-up", sft_steps);
        for step in 1..=sft_steps {
            let chosen: Vec<_> = shuffle.draw(2 * batch).into_iter().map(|i| &train[i].chosen).collect();
            let loss = sft::loss(&self.policy, &chosen, &self.device)?;
            optimizer.backward_step(&loss)?;
            self.history.sft.push((step, loss.to_scalar()?));
            bar.inc(1);
        }
        bar.finish_and_clear();
        if let [.., (step, loss)] = self.history.sft[..] {
            writeln!(out, "warm-up step {step}: {loss:.4} nats per token")?;
        }
        Ok(())
    }

    /// The log-probs that an earlier run has left of a reference with the weights as they are now.
    fn ref_cache(&self, out: &mut impl Write) -> Result<Option<RefCache>> {
        if self.args.no_ref_cache {
            return Ok(None);
        }
        let (path, fingerprint) = (self.args.out.join("ref_logps.cache"), self.weights.fingerprint()?);
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
        train: &[ScoredPair],
        held_out: &[ScoredPair],
        out: &mut impl Write,
    ) -> Result<Evaluation> {
        let Args { steps, lr, batch, seed, eval_every, .. } = *self.args;
        let mut optimizer = Optimizer::new(self.weights.vars(), lr, steps)?;
        let mut shuffle = Shuffle::new(train.len(), seed);
        let bar = progress_bar("DPO", steps);
        for step in 1..=steps {
            let pairs: Vec<_> = shuffle.draw(batch).into_iter().map(|i| &train[i]).collect();
            let output = dpo::loss(&self.policy, &pairs, &self.loss, &self.device)?;
            output.status()?.check()?;
            optimizer.backward_step(&output.loss)?;
            self.history.train.push((step, output.metrics()?));
            bar.inc(1);
            if step % eval_every == 0 && step != steps {
                let evaluation = self.evaluate(step, held_out)?;
                bar.suspend(|| write_step(out, step, &evaluation.metrics))?;
            }
        }
        bar.finish_and_clear();
        let after = self.evaluate(steps, held_out)?;
        write_step(out, steps, &after.metrics)?;
        Ok(after)
    }

    /// Judges the policy, as it is after `step` DPO steps, by the held-out pairs.
    fn evaluate(&mut self, step: usize, held_out: &[ScoredPair]) -> Result<Evaluation> {
        let evaluation = dpo::evaluate(&self.policy, held_out, &self.loss, &self.device)?;
        self.history.held_out.push((step, evaluation.metrics));
        Ok(evaluation)
    }
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
fn progress_bar(phase: &'static str, steps: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:8} [{bar:40}] {pos}/{len}, {eta} left")
        .expect("a valid template")
        .progress_chars("=> ");
    ProgressBar::new(steps as u64).with_style(style).with_prefix(phase)
}

fn write_step(out: &mut impl Write, step: usize, held_out: &PairMetrics<f32>) -> std::io::Result<()> {
    let PairMetrics { loss, chosen_reward, rejected_reward, margin, accuracy, .. } = held_out;
    writeln!(
        out,
        "DPO step {step}: held-out loss {loss:.4}, rewards {chosen_reward:.3} chosen, \
         {rejected_reward:.3} rejected, margin {margin:.3}, accuracy {accuracy:.3}"
    )
}

fn write_report(out: &mut impl Write, folder: &Path, before: &Evaluation, after: &Evaluation) -> Result<()> {
    writeln!(out, "wrote metrics.csv, curves.png and weights to {}", folder.display())?;
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
        run(&Args { data: data.clone(), eval_data: data, out, ..args }, TINY, &mut report)?;
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
        assert!(csv.lines().all(|line| line.split(',').count() == 8));
    }

    #[test]
    fn every_loss_runs() {
        for info in &dpo_kernels_candle::ALL {
            let (report, _folder) = tiny_run(&["--loss", info.name]).unwrap();
            assert!(report.contains("held-out loss: ") && !report.contains("NaN"), "{}: {report}", info.name);
        }
    }

    #[test]
    fn bad_arguments_are_named() {
        let message = |flag| tiny_run(&[flag]).expect_err("an error").to_string();
        assert!(message("--beta=-1").starts_with("beta: expected"));
        assert!(message("--beta=0").starts_with("beta: expected"), "{}", message("--beta=0"));
        assert!(message("--loss=dpo").starts_with("loss: expected one of sigmoid,"));
        assert!(message("--label-smoothing=0.6").starts_with("label_smoothing: expected"));
        for flag in ["--steps=0", "--batch=0", "--lr=-1", "--sft-lr=nan", "--device=tpu"] {
            let error = Args::try_parse_from(["dpo-train", flag]).unwrap_err().to_string();
            assert!(error.contains(flag.split('=').next().unwrap()), "{error}");
        }
        #[cfg(not(feature = "cuda"))]
        assert!(message("--device=cuda").contains("--features cuda"));
    }
}
