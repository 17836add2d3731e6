//! Random calls of all functions of the header: one is refused by the name of what is wrong, and leaves
//! everything as it was; or it is answered as the f64 reference answers.
//!
//! Here and not in `tests/`, because the plans for a GPU, which are all that there is of its half without
//! one, are no functions of the library's.
//!
//! | module | what |
//! |---|---|
//! | `description`, `draw` | what a call says, in the crate's terms, and how it is drawn |
//! | `call`, `head_call`, `memory` | the structs and buffers that say it, each next to an inaccessible page |
//! | `spoil` | what no description can say: wrong addresses, sizes, bits and enumerators |
//! | `verdict`, `agreement` | what the f64 reference says of it, and whether the call says the same |
//! | `head_plan_verdict` | what plan the crate makes of it for a GPU |
//! | `head_verdict` | what the crate's function says of a call behind the language model's head, and whether the call says the same |
//! | `watch` | the number of a call that crashes or hangs |
//!
//! `DPO_RANDOM_CALLS` is the number of calls, `DPO_RANDOM_SEED` what they are drawn from. A failure says how
//! its call is made again alone, by `DPO_RANDOM_CALL`.

mod agreement;
mod call;
mod description;
mod draw;
#[path = "../../../../tests/common/guarded.rs"]
#[allow(dead_code)] // tests/differential uses the rest
mod guarded;
mod head_call;
#[cfg(feature = "cuda")]
mod head_plan_verdict;
mod head_verdict;
mod memory;
#[path = "../../../../tests/common/random.rs"]
mod random;
mod spoil;
#[path = "../../../../tests/common/tolerance/mod.rs"]
#[allow(dead_code)] // the tests of the crate use the rest
mod tolerance;
mod verdict;
mod watch;

use std::collections::BTreeMap;
use std::env;
use std::ptr;

#[cfg(feature = "cuda")]
use dpo_kernels::Error;
use dpo_kernels::loss::ALL;

use self::agreement::Agreement;
use self::call::Call;
#[cfg(feature = "cuda")]
use self::description::Description;
use self::draw::draw;
use self::memory::Memory;
use self::random::Random;
use self::spoil::spoil;
use self::tolerance::precision::{CPU, Precision};
use self::verdict::verdict;
use self::watch::Watch;
use crate::calls::{Arguments, Half, LmHead, Stage};
use crate::cpu::lm_head_workspace::{dpo_cpu_lm_head_workspace_create, dpo_cpu_lm_head_workspace_free};
use crate::cuda::dpo_cuda_workspace_size;
use crate::cuda::lm_head::dpo_cuda_lm_head_workspace_size;
use crate::header::*;
use crate::names::{HeaderNames, message, named, without_position};
use crate::records::dpo_status_check;

/// Calls of a run, unless told otherwise: some seconds.
const CALLS: u64 = 200_000;

fn number_of(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|number| number.parse().unwrap_or_else(|_| panic!("{variable}={number}")))
}

#[test]
fn are_refused_by_name_or_answered_as_by_the_reference() {
    let seed = number_of("DPO_RANDOM_SEED").unwrap_or(1);
    let watch = Watch::new(seed);
    let mut run = Run {
        header: HeaderNames::read(),
        memory: Memory::default(),
        counts: Counts::default(),
        workspace: Workspace::new(),
    };
    if let Some(number) = number_of("DPO_RANDOM_CALL") {
        watch.begin(number);
        run.call(seed, number);
        return;
    }
    let calls = number_of("DPO_RANDOM_CALLS").unwrap_or(CALLS);
    for number in 0..calls {
        watch.begin(number);
        run.call(seed, number);
    }
    // Of fewer calls no shares are known.
    if calls >= CALLS {
        run.counts.check(calls);
    }
}

/// Calls, one after the other.
struct Run {
    header: HeaderNames,
    memory: Memory,
    counts: Counts,
    workspace: Workspace,
}

/// The workspace that calls behind a head share, of any shape and type.
struct Workspace(*mut dpo_cpu_lm_head_workspace);

impl Workspace {
    fn new() -> Self {
        let mut workspace = ptr::null_mut();
        // SAFETY: the pointer is there.
        assert_eq!(unsafe { dpo_cpu_lm_head_workspace_create(&mut workspace) }, DPO_OK);
        Workspace(workspace)
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // SAFETY: no call is under way.
        unsafe { dpo_cpu_lm_head_workspace_free(self.0) };
    }
}

/// How calls went.
#[derive(Debug, Default)]
struct Counts {
    accepted: BTreeMap<String, u64>,
    refused: BTreeMap<String, u64>,
    /// By the argument that they named.
    named: BTreeMap<String, u64>,
    /// Of calls behind a head, those that a GPU has a plan for.
    planned: BTreeMap<String, u64>,
    /// Of accepted calls, by the names of their losses.
    losses: BTreeMap<String, u64>,
}

fn count(counts: &mut BTreeMap<String, u64>, of: impl Into<String>) {
    *counts.entry(of.into()).or_default() += 1;
}

impl Counts {
    /// A run in which all calls are alike would say nothing.
    fn check(&self, calls: u64) {
        println!("{self:#?}");
        for of in [&self.accepted, &self.refused] {
            let all: u64 = of.values().sum();
            assert!(all > calls / 4, "{all} of {calls}: {self:?}");
            // Five stages, of which one has no logits, and four behind the head; three dtypes.
            assert_eq!(of.len(), (4 + 4) * 3 + 1, "{self:?}");
            assert!(of.values().all(|&of_stage| of_stage > calls / 200), "{self:?}");
        }
        if cfg!(feature = "cuda") {
            assert_eq!(self.planned.len(), 4 * 3, "{self:?}");
            assert!(self.planned.values().all(|&of_stage| of_stage > calls / 200), "{self:?}");
        }
        assert!(self.named.len() > 70, "arguments that were refused: {:?}", self.named);
        let names = ALL.iter().flat_map(|info| info.names());
        let unmet: Vec<&str> = names.filter(|&name| !self.losses.contains_key(name)).collect();
        assert!(unmet.is_empty(), "no call with {unmet:?} was accepted");
    }
}

impl Run {
    /// Draws a call and makes it, on both halves.
    fn call(&mut self, seed: u64, number: u64) {
        let random = &mut Random(seed.wrapping_mul(0xD134_2543_DE82_EF95).wrapping_add(number));
        *random = Random(random.next());
        let description = draw(random);
        let stage = description.stage;
        let verdict = verdict(&description);
        let mut call = Call::new(&description, &mut self.memory, random);
        let mut names = (random.below(3) == 0).then(|| spoil(&mut call, random, &[]));
        if let Some(first) = names.filter(|_| random.below(4) == 0) {
            // What is wrong in a second way is refused too, by either name.
            spoil(&mut call, random, first);
            names = Some(&[]);
        }
        let mut arguments = call.hand_over(&mut self.memory, random);
        if arguments.head_workspace.is_null()
            && description.head.as_ref().is_some_and(|head| head.shares_workspace)
        {
            arguments.head_workspace = self.workspace.0;
        }
        let said = || {
            format!("call {number} of seed {seed}, {names:?}, {:?}: {description:?}", verdict.as_ref().err())
        };

        #[cfg(feature = "cuda")]
        match stage {
            Stage::LmHead(_) => self.plan_behind_head(&description, &call, &arguments, names, &said),
            _ => self.plan(&arguments, stage, names, verdict.as_ref().err(), &said),
        }
        if random.below(8) == 0 {
            self.gpu_half(&arguments, stage, random);
            self.status_check(random);
        }

        // SAFETY: what is not as the header asks is to be refused.
        let result = unsafe { arguments.call(Half::Cpu, stage) };
        if result == DPO_OK {
            assert!(names.is_none() && verdict.is_ok(), "accepted: {}", said());
            count(&mut self.counts.accepted, description.kind());
            if verdict.as_ref().is_ok_and(|truth| truth.loss.is_some()) {
                let names = description.loss.terms.iter().map(|term| String::from_utf8_lossy(&term.name));
                names.for_each(|name| count(&mut self.counts.losses, name));
            }
            assert_eq!(self.memory.written_without_leave(false), None, "{}", said());
            let (memory, results) = (&self.memory, &call.results);
            let agreement = Agreement { description: &description, memory, results, precision: precision() };
            let agreed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                agreement.check(verdict.as_ref().unwrap_or_else(|_| unreachable!("it was accepted")));
            }));
            assert!(agreed.is_ok(), "{}", said());
            return;
        }
        let is_refusal = [DPO_ERROR_VALUE, DPO_ERROR_INDEX, DPO_ERROR_MISSING].contains(&result);
        assert!(is_refusal, "{result}, {}: {}", message(), said());
        assert!(names.is_some() || verdict.is_err(), "refused, {}: {}", message(), said());
        assert!(self.header.has(&named()), "{} is not in the header: {}", message(), said());
        if let (Some(names), Ok(_)) = (names, &verdict) {
            let is_named = names.is_empty() || names.contains(&&named()[..]);
            assert!(is_named, "{names:?} expected, {}: {}", message(), said());
        }
        assert_eq!(self.memory.written_without_leave(true), None, "refused, {}: {}", message(), said());
        count(&mut self.counts.refused, description.kind());
        count(&mut self.counts.named, without_position(&named()));
    }

    /// The same call on a GPU, as far as the plan, which refuses what the CPU does but for the contents of
    /// arrays.
    #[cfg(feature = "cuda")]
    fn plan(
        &self,
        arguments: &Arguments,
        stage: Stage,
        names: Option<&[&str]>,
        error: Option<&Error>,
        said: &dyn Fn() -> String,
    ) {
        // SAFETY: what is not as the header asks is to be refused.
        let result = unsafe { arguments.call(Half::Cuda, stage) };
        assert_eq!(self.memory.written_without_leave(true), None, "plan: {}", said());
        if result == DPO_OK {
            let unseen = match names {
                // Without a loss, index arrays are of no use to a launch.
                Some(names) => {
                    let is_of_indices = INDICES.iter().any(|index| names.contains(index));
                    names.is_empty() || is_of_indices && !stage.has_loss()
                }
                None => error.is_none_or(is_of_contents),
            };
            assert!(unseen, "plan accepted: {}", said());
            return;
        }
        let is_refusal = [DPO_ERROR_VALUE, DPO_ERROR_MISSING].contains(&result);
        assert!(is_refusal, "plan: {result}, {}: {}", message(), said());
        assert!(self.header.has(&named()), "plan: {} is not in the header: {}", message(), said());
        if names.is_none() && error.is_none() {
            // What an f32 cannot hold.
            assert!(
                message().contains("a number that f32 can hold"),
                "plan refused, {}: {}",
                message(),
                said()
            );
        }
    }

    /// The same call behind a head on a GPU, as far as the plan, which is that of the crate.
    #[cfg(feature = "cuda")]
    fn plan_behind_head(
        &mut self,
        description: &Description,
        call: &Call,
        arguments: &Arguments,
        names: Option<&[&str]>,
        said: &dyn Fn() -> String,
    ) {
        let (Some(structs), Stage::LmHead(stage)) = (&call.head, description.stage) else {
            unreachable!("it is behind a head")
        };
        // A GPU has no handle of a workspace.
        let names = names.filter(|names| *names != ["workspace"]);
        let arguments = Arguments { head: structs.on_gpu, ..*arguments };
        let truth = names.is_none().then(|| head_plan_verdict::verdict(description, call, &arguments));
        let expected = truth.as_ref().and_then(|truth| truth.as_ref().ok());
        let planned = || head_plan_verdict::planned(stage, &arguments, expected);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(planned));
        let Ok(result) = result else { panic!("plan: {}", said()) };
        assert_eq!(self.memory.written_without_leave(true), None, "plan: {}", said());
        if result == DPO_OK {
            assert!(expected.is_some(), "plan accepted: {}", said());
            count(&mut self.counts.planned, description.kind());
            return;
        }
        let is_refusal = [DPO_ERROR_VALUE, DPO_ERROR_INDEX, DPO_ERROR_MISSING].contains(&result);
        assert!(is_refusal, "plan: {result}, {}: {}", message(), said());
        assert!(self.header.has(&named()), "plan: {} is not in the header: {}", message(), said());
        match truth {
            Some(Err(error)) => {
                let (found, expected) = (named(), head_plan_verdict::name_in(&error));
                assert_eq!(without_position(&found), expected, "plan: {error}: {}", said());
            }
            Some(Ok(_)) => panic!("plan refused, {}: {}", message(), said()),
            None => (),
        }
    }

    /// The functions of the GPU's half, as far as they go without one.
    fn gpu_half(&self, arguments: &Arguments, stage: Stage, random: &mut Random) {
        let kernels: *const dpo_cuda_kernels = ptr::without_provenance(random.pick(&[0, 1, 4097]));
        let has_gpu_half = cfg!(feature = "cuda");
        let refusal =
            if has_gpu_half { (DPO_ERROR_VALUE, "kernels") } else { (DPO_ERROR_UNSUPPORTED, "CUDA") };
        // What a pass will do is said without kernels.
        if !has_gpu_half || stage != Stage::LmHead(LmHead::Plan) {
            // SAFETY: there are no kernels, which is looked at first; nothing else is.
            let result = unsafe { arguments.run_on_gpu(stage, kernels, ptr::null(), ptr::null_mut()) };
            assert_eq!((result, &named()[..]), refusal, "{stage:?}");
        }

        let is_null = random.below(4) == 0;
        let check = |size_of: &dyn Fn(*mut usize) -> dpo_result| {
            let mut bytes = usize::MAX;
            let result = size_of(if is_null { ptr::null_mut() } else { &raw mut bytes });
            let is_written = bytes != usize::MAX;
            assert_eq!(is_written, result == DPO_OK, "{}", message());
            let is_named = result == DPO_OK || self.header.has(&named()) || !has_gpu_half;
            assert!(is_named, "{} is not in the header", message());
        };
        // SAFETY: what is not as the header asks is to be refused.
        check(&|bytes| unsafe { dpo_cuda_workspace_size(arguments.workspace, bytes) });
        // SAFETY: likewise; without a head there is none.
        check(&|bytes| unsafe { dpo_cuda_lm_head_workspace_size(arguments.cuda_head_workspace, bytes) });
    }

    /// A status is clean, or says what is not.
    fn status_check(&self, random: &mut Random) {
        let places =
            [DPO_NO_TROUBLE, DPO_NO_TROUBLE, DPO_NO_TROUBLE, DPO_NO_TROUBLE, 0, 7, DPO_NO_TROUBLE - 1];
        let mut place = || random.pick(&places);
        let status = dpo_status {
            bad_label: place(),
            nonfinite_row: place(),
            empty_sequence: place(),
            bad_cu_seqlens: place(),
            bad_pair: place(),
            bad_pair_input: place(),
        };
        let is_clean = dpo_kernels::Status::from(status).is_clean();
        // SAFETY: the status is there.
        let result = unsafe { dpo_status_check(&status) };
        assert_eq!(result, if is_clean { DPO_OK } else { DPO_ERROR_DATA }, "{status:?}");
        assert!(is_clean || message().starts_with("bad data: "), "{}", message());
    }
}

/// Where sequences and pairs are by index.
#[cfg(feature = "cuda")]
const INDICES: [&str; 3] = ["chosen", "rejected", "desirable"];

/// Whether a refusal is of the contents of an array, or of a number in the memory that the call is about.
/// Behind it there may be another one.
#[cfg(feature = "cuda")]
fn is_of_contents(error: &Error) -> bool {
    match error {
        Error::Index { .. } => true,
        Error::Value { argument, expected, found } => {
            let of_pairs =
                ["beta", "gamma", "weight", "label_smoothing"].contains(argument) && found.contains(" at ");
            of_pairs
                || (["normalizer", "chosen_tokens"].contains(argument)
                    && expected == "a finite number above 0")
        }
        _ => false,
    }
}

/// What this processor's instructions cost.
fn precision() -> &'static Precision {
    #[cfg(target_arch = "x86_64")]
    if !(std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")) {
        return &tolerance::precision::CPU_UNFUSED;
    }
    &CPU
}
