//! What the factored forward is for: behind a linear head, its gradient and the coefficients of the rows give the gradients
//! of hidden states and weights,
//!
//! ```text
//! z = X Wᵀ        dX = diag(c) (G W)        dW = Gᵀ (diag(c) X)        c[r] = coef[s] · upstream
//! ```
//!
//! Held against finite differences in f64 of the whole chain from X and W to the loss; and the CPU backend, from logits
//! in its own types, against the same products of the reference's gradient.

mod common;

use common::tolerance::gradient::{Coefficient, stored};
use common::tolerance::pair_arguments::PairArguments;
use common::tolerance::precision::CPU;
use common::tolerance::sequence::Uncertain;
use common::widen;
use dpo_kernels::IGNORE_INDEX;
use dpo_kernels::PairInputs;
use dpo_kernels::{Forward, HostBatch, LabelAlignment, Logit, PairLoss, cpu, reference};
use half::{bf16, f16};

const SEQUENCES: usize = 4;
const SEQUENCE_LEN: usize = 3;
const ROWS: usize = SEQUENCES * SEQUENCE_LEN;
const HIDDEN: usize = 5;
const VOCAB: usize = 37;
const UPSTREAM: f64 = 1.5;
const LABELS: [i64; ROWS] = [0, 36, 5, IGNORE_INDEX, 7, 7, 12, IGNORE_INDEX, 30, 1, 2, 3];
const REF_LOGPS: [f32; SEQUENCES] = [-11.0, -7.5, -8.0, -10.0];

/// Step of the central difference. The third derivative of the loss by one number of X or W, all of them below 1 in size,
/// is below 10: its truncation error is STEP²/6 times that, its rounding error that of the loss over STEP.
const STEP: f64 = 1e-5;

/// A matrix in row-major order, with its number of columns.
#[derive(Clone)]
struct Matrix {
    values: Vec<f64>,
    columns: usize,
}

impl Matrix {
    /// Numbers from −1 to 1, in no order.
    fn mixed(rows: usize, columns: usize, salt: usize) -> Self {
        let value = |i: usize| ((i + salt) * 7919 % 1601) as f64 / 800.5 - 1.0;
        Matrix { values: (0..rows * columns).map(value).collect(), columns }
    }

    fn rows(&self) -> usize {
        self.values.len() / self.columns
    }

    fn transposed(&self) -> Self {
        let values = (0..self.columns)
            .flat_map(|c| (0..self.rows()).map(move |r| self.values[r * self.columns + c]))
            .collect();
        Matrix { values, columns: self.rows() }
    }

    fn times(&self, other: &Matrix) -> Self {
        assert_eq!(self.columns, other.rows());
        let product = |r: usize, c: usize| {
            (0..self.columns)
                .map(|k| self.values[r * self.columns + k] * other.values[k * other.columns + c])
                .sum()
        };
        let values = (0..self.rows()).flat_map(|r| (0..other.columns).map(move |c| product(r, c))).collect();
        Matrix { values, columns: other.columns }
    }

    /// The absolute values.
    fn sizes(&self) -> Self {
        Matrix { values: self.values.iter().map(|value| value.abs()).collect(), columns: self.columns }
    }

    /// diag(c) times this.
    fn scaled_rows(&self, c: &[f64]) -> Self {
        let values = self.values.iter().enumerate().map(|(i, value)| c[i / self.columns] * value).collect();
        Matrix { values, columns: self.columns }
    }
}

struct Head {
    batch: HostBatch<'static>,
    loss: PairLoss,
    hidden: Matrix,
    weights: Matrix,
}

impl Head {
    fn new() -> Self {
        Head {
            batch: HostBatch::padded(SEQUENCES, SEQUENCE_LEN, VOCAB, LabelAlignment::Aligned),
            loss: PairLoss::sigmoid(0.7)
                .unwrap()
                .with_label_smoothing(0.1)
                .unwrap()
                .with_length_normalization(),
            hidden: Matrix::mixed(ROWS, HIDDEN, 3),
            weights: Matrix::mixed(VOCAB, HIDDEN, 1000),
        }
    }

    fn logits(&self) -> Vec<f64> {
        self.hidden.times(&self.weights.transposed()).values
    }

    /// Of given logits: the loss, and what the factored forward gives.
    fn factored(&self, logits: &[f64]) -> (f64, Matrix, Vec<f64>) {
        let logps = reference::logps(&self.batch, logits, LABELS[..].into()).unwrap();
        let ref_logps = REF_LOGPS.map(f64::from);
        let lengths = Some(&logps.scored[..]);
        let pairs = reference::pair_loss(
            &self.batch,
            &logps.logps,
            lengths,
            &PairInputs::reference(&ref_logps),
            &self.loss,
        )
        .unwrap();
        let gradient =
            reference::factored_gradient(&self.batch, logits, LABELS[..].into(), &logps.logsumexp).unwrap();
        (UPSTREAM * pairs.metrics.loss, Matrix { values: gradient, columns: VOCAB }, of_rows(&pairs.coef))
    }

    /// dX and dW.
    fn gradients(&self, gradient: &Matrix, c: &[f64]) -> [Matrix; 2] {
        [
            gradient.times(&self.weights).scaled_rows(c),
            gradient.transposed().times(&self.hidden.scaled_rows(c)),
        ]
    }

    /// How far diag(c) G of the CPU backend may be from the exact one: |c| times the error of G, and the error of c times
    /// the G that was found.
    fn error_of_scaled_gradient<T: Logit + Into<f64>>(
        &self,
        logits: &[T],
        gradient: &Matrix,
        exact_gradient: &Matrix,
        exact_c: &[f64],
    ) -> Matrix {
        let logps = reference::logps(&self.batch, logits, LABELS[..].into()).unwrap();
        let bounds = CPU.row(VOCAB, &self.batch.transform);
        let token = |row: usize| match LABELS[row] {
            IGNORE_INDEX => Uncertain::default(),
            _ => bounds.token(logps.logsumexp[row], logps.token_logps[row]),
        };
        let rows = |s: usize| s * SEQUENCE_LEN..(s + 1) * SEQUENCE_LEN;
        let sequence = |s: usize| CPU.sequence(rows(s).map(token), logps.logps[s]);
        let log_ratios: Vec<Uncertain> = (0..SEQUENCES).map(sequence).collect();
        let ref_logps = REF_LOGPS.map(f64::from);
        let arguments = PairArguments {
            batch: &self.batch,
            loss: &self.loss,
            inputs: PairInputs::reference(&ref_logps),
            logps: &logps.logps,
            scored: &logps.scored,
        };
        let c_errors = of_rows(&CPU.pair_loss(&arguments, &log_ratios, 0.0).coef);
        let error = |i: usize| {
            let (row, column) = (i / VOCAB, i % VOCAB);
            if LABELS[row] == IGNORE_INDEX {
                return 0.0;
            }
            let one = Coefficient { value: 1.0, error: 0.0 };
            let of_row = bounds.gradient(T::DTYPE, logps.logsumexp[row], one);
            let error = of_row.element(logits[i].into(), LABELS[row] == column as i64);
            let error = stored(T::DTYPE, exact_gradient.values[i], error);
            exact_c[row].abs() * error + c_errors[row] * gradient.values[i].abs()
        };
        Matrix { values: (0..logits.len()).map(error).collect(), columns: VOCAB }
    }
}

/// Each row's coefficient, from those of the sequences.
fn of_rows(coef: &[f64]) -> Vec<f64> {
    (0..ROWS).map(|row| coef[row / SEQUENCE_LEN] * UPSTREAM).collect()
}

#[test]
fn products_of_the_factored_gradient_are_the_gradients_of_the_head() {
    let head = Head::new();
    let (loss, gradient, c) = head.factored(&head.logits());
    let tolerance = STEP * STEP / 6.0 * 10.0 + 32.0 * f64::EPSILON * loss.abs().max(1.0) / STEP;

    let [dx, dw] = head.gradients(&gradient, &c);
    check_against_differences("dX", &dx, |head| &mut head.hidden, tolerance);
    check_against_differences("dW", &dw, |head| &mut head.weights, tolerance);
}

fn check_against_differences(
    name: &str,
    found: &Matrix,
    part: impl Fn(&mut Head) -> &mut Matrix,
    tolerance: f64,
) {
    for (i, &found) in found.values.iter().enumerate() {
        let shifted = |by: f64| {
            let mut head = Head::new();
            part(&mut head).values[i] += by;
            head.factored(&head.logits()).0
        };
        let difference = (shifted(STEP) - shifted(-STEP)) / (2.0 * STEP);
        assert!(
            (difference - found).abs() <= tolerance,
            "{name}[{i}]: finite difference {difference:e}, product {found:e}"
        );
    }
    let largest = found.values.iter().fold(0.0f64, |largest, found| largest.max(found.abs()));
    assert!(largest > 1e3 * tolerance, "{name} is too small to tell anything: {largest:e}");
}

/// Logits of a type, the factored forward in and out of place: log-probs, losses and coefficients to the bit those of the
/// forward, and the products of its gradient those of the reference's, from the same logits.
fn cpu_agrees<T: Logit + Into<f64> + PartialEq>() {
    let head = Head::new();
    let logits: Vec<T> = head.logits().iter().map(|&z| T::from_f32(z as f32)).collect();
    let labels = || LABELS[..].into();
    let inputs = PairInputs { ref_logps: Some(&REF_LOGPS[..]), ..PairInputs::default() };
    let [mut plain, mut apart, mut in_place] = [(); 3].map(|()| Forward::default());
    cpu::forward(&head.batch, &logits, labels(), &inputs, &head.loss, &mut plain).unwrap();
    let mut gradient = vec![T::from_f32(9.0); logits.len()];
    cpu::factored(&head.batch, &logits, labels(), &inputs, &head.loss, &mut apart, &mut gradient).unwrap();
    let mut over = logits.clone();
    cpu::factored_in_place(&head.batch, &mut over, labels(), &inputs, &head.loss, &mut in_place).unwrap();
    assert!(gradient == over, "{:?}: in place and apart differ", T::DTYPE);
    // No NaN among them, so equal is equal in every bit but the sign of a zero, which no sum has.
    assert_eq!(apart, plain, "{:?}", T::DTYPE);
    assert_eq!(in_place, plain, "{:?}", T::DTYPE);

    let wide: Vec<f64> = logits.iter().map(|&z| z.into()).collect();
    let (_, exact_gradient, exact_c) = head.factored(&wide);
    let gradient = Matrix { values: gradient.iter().map(|&g| g.into()).collect(), columns: VOCAB };
    let c = of_rows(&widen(&plain.pairs.coef));
    let [dx, dw] = head.gradients(&gradient, &c);
    let [exact_dx, exact_dw] = head.gradients(&exact_gradient, &exact_c);
    let error = head.error_of_scaled_gradient(&logits, &gradient, &exact_gradient, &exact_c);
    let bounds = [error.times(&head.weights.sizes()), error.transposed().times(&head.hidden.sizes())];
    for ((name, found, exact), bound) in [("dX", dx, exact_dx), ("dW", dw, exact_dw)].into_iter().zip(bounds)
    {
        for (i, (found, exact)) in found.values.iter().zip(&exact.values).enumerate() {
            let bound = bound.values[i];
            assert!((found - exact).abs() <= bound, "{:?} {name}[{i}]: {found:e}, {exact:e}", T::DTYPE);
        }
    }
}

#[test]
fn the_cpu_backend_gives_the_same_products() {
    cpu_agrees::<f32>();
    cpu_agrees::<f16>();
    cpu_agrees::<bf16>();
}
