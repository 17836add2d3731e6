//! A run that is cut off goes on from its last checkpoint to the figures of the run that was not.

mod common;

use std::fs;
use std::path::Path;

use candle_core::Device;
use common::{args, figures, result, run};
use dpo_train::checkpoint::{Checkpoint, Phase};
use dpo_train::train::{CHECKPOINT, Interrupted};

fn refusal(folder: &Path, more: &[&str]) -> String {
    format!("{:#}", run(&args(folder, more), false).unwrap_err())
}

#[test]
fn a_run_that_stops_after_every_step_is_the_run_that_does_not() {
    for more in [&["--seed=3"][..], &["--seed=3", "--loss=ipo", "--no-ref-cache"]] {
        let (whole, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let expected = run(&args(whole.path(), more), false).unwrap();

        let more = [more, &["--resume"]].concat();
        let mut stops = Vec::new();
        while stops.len() < 7 + 10 {
            let error = run(&args(cut.path(), &more), true).unwrap_err();
            stops.push(error.downcast::<Interrupted>().unwrap().to_string());
        }
        assert_eq!(stops[0], "stopped after warm-up step 1: --resume goes on from there");
        assert_eq!(stops[7], "stopped after DPO step 0: --resume goes on from there");
        assert_eq!(stops[16], "stopped after DPO step 9: --resume goes on from there");
        let report = run(&args(cut.path(), &more), false).unwrap();
        assert!(report.contains("\ngoing on after DPO step 9\n"), "{report}");
        assert_eq!(result(&report), result(&expected));
        assert!(figures(cut.path()) == figures(whole.path()));
    }
}

#[test]
fn metrics_are_in_their_file_as_steps_end() {
    let folder = tempfile::tempdir().unwrap();
    let csv = || fs::read_to_string(folder.path().join("out/metrics.csv")).unwrap();
    for steps in 1..=3 {
        run(&args(folder.path(), &["--resume"]), true).unwrap_err();
        let rows: Vec<String> = csv().lines().skip(1).map(|line| line[..12].to_string()).collect();
        assert_eq!(rows, (1..=steps).map(|step| format!("sft,train,{step},")).collect::<Vec<_>>());
    }
}

#[test]
fn without_a_checkpoint_a_run_starts_at_the_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let report = run(&args(folder.path(), &["--resume"]), false).unwrap();
    assert!(report.contains("run.checkpoint: starting at the beginning\n"), "{report}");
}

#[test]
fn a_damaged_or_foreign_checkpoint_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    run(&args(folder.path(), &[]), true).unwrap_err();
    let path = folder.path().join("out").join(CHECKPOINT);
    let whole = fs::read(&path).unwrap();
    let metrics = fs::read(folder.path().join("out/metrics.csv")).unwrap();

    let foreign = [
        ("--lr=0.5", "run.checkpoint: the checkpoint is of another run: --lr was 0.00015, and is 0.5"),
        ("--loss=ipo", "--loss was sigmoid, and is ipo"),
        ("--beta=0.5", "--beta was the loss's own, and is 0.5"),
        ("--seed=1", "--seed was 0, and is 1"),
        ("--max-length=8", "held-out pairs was "),
    ];
    for (other, reason) in foreign {
        let error = refusal(folder.path(), &["--resume", other]);
        assert!(error.contains(reason), "{error:?} does not say {reason:?}");
    }

    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    for (bytes, reason) in [
        (&damaged[..], "damaged: its checksum is not that of its content"),
        (&whole[..whole.len() - 1], "damaged: its checksum is not that of its content"),
        (&[], "expected a file that begins with \"DPOCKPT1\""),
    ] {
        fs::write(&path, bytes).unwrap();
        let error = refusal(folder.path(), &["--resume"]);
        assert!(error.contains("run.checkpoint: ") && error.contains(reason), "{error}");
    }

    // What was refused has changed nothing.
    assert_eq!(fs::read(folder.path().join("out/metrics.csv")).unwrap(), metrics);
    fs::write(&path, whole).unwrap();
    run(&args(folder.path(), &["--resume"]), false).unwrap();
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_a_checkpoint() {
    use std::process::{Command, Stdio};

    let folder = tempfile::tempdir().unwrap();
    let args = args(folder.path(), &[]);
    let child = Command::new(env!("CARGO_BIN_EXE_dpo-train"))
        .arg("--data")
        .arg(&args.data)
        .arg("--eval-data")
        .arg(&args.eval_data)
        .arg("--out")
        .arg(&args.out)
        .args(["--batch=1", "--sft-steps=1000000", "--eval-every=1000000"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let rows = || fs::read_to_string(args.out.join("metrics.csv")).map_or(0, |csv| csv.lines().count());
    while rows() < 3 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let checkpoint = Checkpoint::open(&args.out.join(CHECKPOINT), &Device::Cpu).unwrap().unwrap();
    let said = format!("stopped after warm-up step {}: --resume goes on from there\n", checkpoint.step);
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap()), (Some(130), said));
    assert_eq!((checkpoint.phase, checkpoint.step), (Phase::WarmUp, rows() - 1));
}

/// `kill -9` at any moment: a process has no say in it.
#[cfg(unix)]
mod killed_at_any_moment {
    use std::process::{Child, Command, Stdio};
    use std::thread::sleep;
    use std::time::Duration;
    use std::{env, iter};

    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    /// Where the process that is killed has its folder.
    const FOLDER: &str = "DPO_TRAIN_KILLED";
    const RESUME: &[&str] = &["--resume"];

    #[test]
    #[ignore = "the run that the next test kills, in a process of its own"]
    fn the_run() {
        if let Some(folder) = env::var_os(FOLDER) {
            run(&args(Path::new(&folder), RESUME), false).unwrap();
        }
    }

    fn start(folder: &Path) -> Child {
        Command::new(env::current_exe().unwrap())
            .args(["--exact", "killed_at_any_moment::the_run", "--ignored"])
            .env(FOLDER, folder)
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn lines(folder: &Path) -> usize {
        fs::read(folder.join("out/metrics.csv")).map_or(0, |csv| csv.split(|&byte| byte == b'\n').count() - 1)
    }

    #[test]
    fn the_last_checkpoint_is_whole_and_the_next_run_goes_on() {
        let whole = tempfile::tempdir().unwrap();
        let expected = run(&args(whole.path(), RESUME), false).unwrap();
        let all_lines = lines(whole.path());

        let kills = if env::var_os("DPO_REDUCED").is_some() { 10 } else { 50 };
        let mut rng = StdRng::seed_from_u64(13);
        let (mut killed, mut phases) = (0, Vec::new());
        while killed < kills {
            let folder = tempfile::tempdir().unwrap();
            // The data are there before a run that may be killed could leave half of them.
            let of_folder = args(folder.path(), RESUME);
            // The second run goes on from what the first has left.
            for _ in 0..2 {
                let mut child = start(folder.path());
                // By the steps that are done and not by the clock alone: machines differ in speed.
                let enough = rng.random_range(0..=all_lines);
                while lines(folder.path()) < enough && child.try_wait().unwrap().is_none() {
                    sleep(Duration::from_micros(100));
                }
                sleep(Duration::from_micros(rng.random_range(0..5000)));
                child.kill().unwrap();
                // A process that was killed has no exit code.
                killed += usize::from(child.wait().unwrap().code().is_none());
                let path = folder.path().join("out").join(CHECKPOINT);
                phases.extend(
                    Checkpoint::open(&path, &Device::Cpu).unwrap().map(|checkpoint| checkpoint.phase),
                );
            }
            let report = run(&of_folder, false).unwrap();
            assert_eq!(result(&report), result(&expected));
            assert!(figures(folder.path()) == figures(whole.path()), "{report}");
        }
        // The moments were in both phases.
        for phase in [Phase::WarmUp, Phase::Dpo] {
            assert!(
                iter::zip(&phases, iter::repeat(phase)).any(|(&found, phase)| found == phase),
                "{phases:?}"
            );
        }
    }
}
