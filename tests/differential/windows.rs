//! Passes that are launched once for each window of the rows, with the logits of those rows alone in memory.

use dpo_kernels::cuda::plan::{self, DeviceAddress, GradientBuffers, Inputs, PairLossArguments, RowWindow};
use dpo_kernels::{GradientStatus, LabelAlignment, Logit, MetricsLevel, Transform};

use crate::case::{Case, Mask, PairKind, Spec};
use crate::executor::{Device, Executor, OnDevice, Outcome, Uploaded, bytes_of, untouched};
use crate::tolerance::precision::KERNELS;

/// A device whose passes go through the rows in windows of at most so many.
struct Windowed<'a, D>(&'a mut OnDevice<D>, usize);

/// A window, and buffers for its rows alone.
struct Part {
    inputs: Inputs,
    gradient: DeviceAddress,
    /// The buffers' elements, as they stand in the batch's.
    elements: std::ops::Range<usize>,
}

impl<D: Device> Windowed<'_, D> {
    /// The last window first, since their order is the caller's choice.
    fn parts<T: Logit>(&mut self, case: &Case<T>, on: &Uploaded) -> Vec<Part> {
        let spec = &case.spec;
        let device = &mut self.0.0;
        let part = |(number, window): (usize, RowWindow)| {
            let elements = window.first * spec.row_stride..(window.end - 1) * spec.row_stride + spec.vocab;
            // Each starts elsewhere between two 16-byte boundaries, as chunks of a larger buffer may.
            let phase = (spec.phase + number * size_of::<T>()) % 16;
            let logits = device.upload(bytes_of(&case.logits[elements.clone()]), phase);
            let gradient = match spec.gradient_phase {
                None => logits,
                Some(phase) => device.upload(bytes_of(&vec![untouched::<T>(); elements.len()]), phase),
            };
            Part { inputs: Inputs { logits, window: Some(window), ..on.inputs }, gradient, elements }
        };
        let mut parts: Vec<Part> = RowWindow::each(case.rows(), self.1).enumerate().map(part).collect();
        parts.rotate_right(1);
        parts
    }

    /// The gradient of the batch, with what lies between the rows.
    fn gradient<T: Logit>(&mut self, case: &Case<T>, parts: &[Part]) -> Vec<T> {
        let mut gradient = match case.spec.gradient_phase {
            None => case.logits.clone(),
            Some(_) => vec![untouched::<T>(); case.logits.len()],
        };
        for part in parts {
            let found: Vec<T> = self.0.fetch(part.gradient, part.elements.len());
            gradient[part.elements.clone()].copy_from_slice(&found);
        }
        gradient
    }
}

impl<D: Device> Executor for Windowed<'_, D> {
    fn name(&self) -> String {
        format!("{}, {} rows at a time", self.0.name(), self.1)
    }

    fn run<T: Logit>(&mut self, case: &Case<T>) -> Outcome<T> {
        let device = self.0.0.properties();
        let on = self.0.upload(case);
        let loss = PairLossArguments { loss: &case.spec.loss, inputs: on.pair_inputs, out: &on.out.pairs };
        let parts = self.parts(case, &on);
        for Part { inputs, .. } in &parts {
            let plan = plan::forward(&device, &on.batch, inputs, &on.out.logps, Some(&loss), on.workspace);
            self.0.0.run(plan.unwrap());
        }
        let (logps, pairs) = self.0.results(case, &on);
        let whole = self.0.gradient_buffers(case, &on, &logps);
        for part in &parts {
            let buffers = GradientBuffers { dlogits: part.gradient, ..whole };
            self.0.0.run(plan::backward(&device, &on.batch, &part.inputs, &buffers).unwrap());
        }
        let (dlogits, gradient) = (self.gradient(case, &parts), self.0.gradient_status(&whole));
        self.0.0.clear();
        Outcome { logps, pairs, dlogits, gradient, factored: false, precision: &KERNELS }
    }

    fn factored<T: Logit>(&mut self, case: &Case<T>) -> Outcome<T> {
        let device = self.0.0.properties();
        let on = self.0.upload(case);
        let loss = PairLossArguments { loss: &case.spec.loss, inputs: on.pair_inputs, out: &on.out.pairs };
        let parts = self.parts(case, &on);
        for Part { inputs, gradient, .. } in &parts {
            let (out, workspace) = (&on.out.logps, on.workspace);
            let plan = plan::factored(&device, &on.batch, inputs, out, Some(&loss), *gradient, workspace);
            self.0.0.run(plan.unwrap());
        }
        let (logps, pairs) = self.0.results(case, &on);
        let dlogits = self.gradient(case, &parts);
        self.0.0.clear();
        let gradient = GradientStatus::default();
        Outcome { logps, pairs, dlogits, gradient, factored: true, precision: &KERNELS }
    }
}

/// Cases whose windows end inside sequences and inside the rows of a block, and whose blocks have several rows, one, and a
/// slice of one.
fn cases<T: Logit>() -> Vec<Case<T>> {
    let padded = Spec {
        sequences: 6,
        longest: 5,
        mask: Mask::EmptySequence,
        gradient_phase: Some(4),
        alignment: LabelAlignment::NextToken,
        ..Spec::plain(33)
    };
    let packed = Spec { packed: true, mask: Mask::Holes, pairs: PairKind::Indexed, seed: 2, ..padded };
    let weighted = Spec { ld_alpha: 0.5, token_coef: true, tensors: true, gradient_phase: None, ..padded };
    let metrics = Spec {
        metrics: MetricsLevel::All,
        transform: Transform { softcap: Some(20.0), ..Transform::default() },
        packed: true,
        ..padded
    };
    let long = |vocab: usize| Spec { longest: 2, sequences: 4, row_stride: vocab + 3, ..Spec::plain(vocab) };
    [padded, packed, weighted, metrics, long(5003), long(40_001)].map(Case::draw).into()
}

/// Every bit of the numbers, but of a NaN's.
fn printed<T: Logit>(outcome: &Outcome<T>) -> String {
    let Outcome { logps, pairs, dlogits, gradient, .. } = outcome;
    let dlogits: Vec<f32> = dlogits.iter().map(|dlogit| dlogit.to_f32()).collect();
    format!("{logps:?} {pairs:?} {dlogits:?} {gradient:?}")
}

/// Whatever the windows: the results, the status and the gradient are those of one launch, bit for bit.
pub fn windows_give_the_bits_of_one_launch<T: Logit>(executor: &mut OnDevice<impl Device>) {
    for case in cases::<T>() {
        let factored = case.spec.metrics == MetricsLevel::None;
        let whole = executor.run(&case);
        let whole_factored = factored.then(|| executor.factored(&case));
        for most in [1, 3, case.rows().div_ceil(2)] {
            let mut windowed = Windowed(executor, most);
            let who = format!("{}: {:?}", windowed.name(), case.spec);
            assert_eq!(printed(&windowed.run(&case)), printed(&whole), "{who}");
            if let Some(whole) = &whole_factored {
                assert_eq!(printed(&windowed.factored(&case)), printed(whole), "{who}");
            }
        }
    }
}
