//! One workspace, in turn for batches of every shape within its capacity.

use dpo_kernels::cuda::params::DpoProgress;
use dpo_kernels::cuda::plan::{self, Capacity, PairLossArguments, Workspace};
use dpo_kernels::{Logit, MetricsLevel};

use crate::case::{Case, Mask, PairKind, Spec};
use crate::executor::{Device, Executor, OnDevice, Outcome, Uploaded};

/// Shapes that follow each other from small to large, with all that goes through a workspace: several rows to
/// a block, rows of several slices, packed and empty sequences, and token metrics.
fn cases<T: Logit>() -> Vec<Case<T>> {
    let plain = Spec { mask: Mask::Holes, ..Spec::plain(33) };
    let packed = Spec { packed: true, sequences: 10, longest: 7, mask: Mask::EmptySequence, ..plain };
    [
        Spec { sequences: 2, longest: 1, ..plain },
        Spec { metrics: MetricsLevel::All, pairs: PairKind::Interleaved, ..packed },
        Spec { sequences: 4, longest: 2, ..Spec::plain(40_001) },
        Spec { sequences: 12, longest: 9, pairs: PairKind::Indexed, seed: 2, ..packed },
        Spec { sequences: 16, longest: 8, ld_alpha: 0.5, ..plain },
    ]
    .map(Case::draw)
    .into()
}

/// Every bit of the results, but of a NaN's.
fn printed<T: Logit>(outcome: &Outcome<T>) -> String {
    format!("{:?} {:?}", outcome.logps, outcome.pairs)
}

/// The results of each launch are those that it has in a workspace of its own, whatever launch was there
/// before, and the counters of the largest batch are at zero after every one.
pub fn batches_take_turns<T: Logit>(executor: &mut OnDevice<impl Device>) {
    let cases = cases::<T>();
    let takes_factored = |spec: &Spec| spec.metrics == MetricsLevel::None;
    let alone: Vec<(String, Option<String>)> = cases
        .iter()
        .map(|case| {
            let factored = takes_factored(&case.spec).then(|| printed(&executor.factored(case)));
            (printed(&executor.run(case)), factored)
        })
        .collect();
    let capacity = cases.iter().map(|case| Capacity::of(&case.batch())).reduce(Capacity::max).unwrap();
    let counters = size_of::<DpoProgress>() + 4 * (capacity.sequences + capacity.rows);
    // As an earlier launch might have left it.
    let mut left = vec![0; capacity.workspace_bytes().unwrap()];
    left[counters..].fill(0xff);
    let address = executor.0.upload(&left, 4);
    let workspace = Workspace { address, capacity: Some(capacity) };
    let device = executor.0.properties();
    // Up, down, and from the smallest to the largest at once.
    for at in (0..cases.len()).chain((0..cases.len()).rev()).chain([cases.len() - 1]) {
        let case = &cases[at];
        let (forward, factored) = &alone[at];
        let on @ Uploaded { batch, inputs, pair_inputs, out, gradient, .. } = &executor.upload(case);
        let loss = PairLossArguments { loss: &case.spec.loss, inputs: *pair_inputs, out: &out.pairs };
        let logps = &out.logps;
        let mut check = |plan: plan::Plan, expected: &String| {
            executor.0.run(plan);
            let (logps, pairs) = executor.results(case, on);
            assert_eq!(&format!("{logps:?} {pairs:?}"), expected, "{:?}", case.spec);
            let left = executor.0.download(address, counters);
            assert!(left.iter().all(|&byte| byte == 0), "counters after {:?}", case.spec);
        };
        check(plan::forward(&device, batch, inputs, logps, Some(&loss), workspace).unwrap(), forward);
        if let Some(factored) = factored {
            let plan = plan::factored(&device, batch, inputs, logps, Some(&loss), *gradient, workspace);
            check(plan.unwrap(), factored);
        }
    }
    executor.0.clear();
}
