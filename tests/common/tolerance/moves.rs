//! How far the results of `pair_loss` move when the log-probs do, by evaluating the f64 reference there.

use dpo_kernels::PairOutputs;

use super::pair_arguments::PairArguments;

/// Largest changes of pair losses and coefficients.
#[derive(Debug, Clone)]
pub struct Moves {
    pub losses: Vec<f64>,
    pub coef: Vec<f64>,
}

/// What moves together may move further than what moves alone: by the mixed second derivatives, which are as small as
/// the moves.
const TOGETHER: f64 = 1.25;

impl Moves {
    /// When each of the log-probs moves by as much as `by` says, up or down: the changes that each makes alone, added
    /// up.
    pub fn of(arguments: &PairArguments<'_>, by: &[f64]) -> Moves {
        let logps = arguments.logps;
        let exact = arguments.evaluate(logps);
        let mut moves = Moves { losses: vec![0.0; exact.pair_losses.len()], coef: vec![0.0; logps.len()] };
        for s in (0..logps.len()).filter(|&s| by[s] > 0.0) {
            let [up, down] = [by[s], -by[s]].map(|by| {
                let mut moved = logps.to_vec();
                moved[s] += by;
                arguments.evaluate(&moved)
            });
            let change = |moves: &mut [f64], of: fn(&PairOutputs<f64>) -> &[f64]| {
                for (i, change) in moves.iter_mut().enumerate() {
                    // NaN, of infinities that stay where they are, is no change.
                    let by = |moved: &PairOutputs<f64>| (of(moved)[i] - of(&exact)[i]).abs();
                    *change += TOGETHER * by(&up).max(by(&down)).max(0.0);
                }
            };
            change(&mut moves.losses, |out| &out.pair_losses);
            change(&mut moves.coef, |out| &out.coef);
        }
        moves
    }
}
