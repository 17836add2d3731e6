//! What the factored forward is for: behind a linear head, its gradient and the coefficients of the rows give the gradients
//! of hidden states and weights,
//!
//! ```text
//! z = X Wᵀ        dX = diag(c) (G W)        dW = Gᵀ (diag(c) X)        c[r] = coef[s] · upstream
//! ```
//!
//! Held against finite differences in f64 of the whole chain from X and W to the loss; and the CPU backend, from logits
//! in its own types, against the same products of the reference's gradient.

use dpo_kernels::IGNORE_INDEX;
use dpo_kernels::PairInputs;
use dpo_kernels::{Forward, HostBatch, Logit, PairLoss, cpu, reference};
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
            batch: HostBatch::padded(SEQUENCES, SEQUENCE_LEN, VOCAB),
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
fn cpu_agrees<T: Logit + Into<f64> + PartialEq>(unit: f64) {
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
    let c = of_rows(&plain.pairs.coef.iter().map(|&coef| f64::from(coef)).collect::<Vec<_>>());
    // An element of G is rounded once, by `unit` of its size at most (f16 below 2⁻¹⁴ by less than 2⁻²⁵), after an f32
    // computation of 2⁻¹⁷ at most; c is f32 from log-probs whose error is 64·2⁻²⁴ and which a β below 1 scales.
    let (element, coef) = (unit + 2f64.powi(-17), 2f64.powi(-17));
    let largest_c = exact_c.iter().fold(0.0f64, |largest, c| largest.max(c.abs()));
    // Elements of G, X and W are 1 at most in size; those of a row of G add up to 2 at most.
    let bound = |weight: f64, terms: usize| {
        weight * (largest_c * element + coef) + terms as f64 * largest_c * 2f64.powi(-25)
    };
    let [dx, dw] = head.gradients(&gradient, &c);
    let [exact_dx, exact_dw] = head.gradients(&exact_gradient, &exact_c);
    for (name, found, exact, bound) in
        [("dX", dx, exact_dx, bound(2.0, VOCAB)), ("dW", dw, exact_dw, bound(ROWS as f64, ROWS))]
    {
        for (i, (found, exact)) in found.values.iter().zip(&exact.values).enumerate() {
            assert!((found - exact).abs() <= bound, "{:?} {name}[{i}]: {found:e}, {exact:e}", T::DTYPE);
        }
    }
}

#[test]
fn the_cpu_backend_gives_the_same_products() {
    cpu_agrees::<f32>(2f64.powi(-24));
    cpu_agrees::<f16>(2f64.powi(-11));
    cpu_agrees::<bf16>(2f64.powi(-9));
}
