//! Whether a batch fits into memory, before any of it is allocated.

use std::hint::black_box;
use std::path::Path;

use anyhow::{Result, bail};
use candle_core::Device;

use crate::batches::PairTokens;
use crate::dpo::Start;
use crate::model::Config;

/// What goes through the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    /// A training step; otherwise an evaluation, in which what a backward pass would need is kept all the same.
    pub backward: bool,
    /// What its loss starts from.
    pub start: Start,
}

/// `[S, heads, T, T]` numbers that a block keeps: scores, the same with their bias, less their maximum, and
/// exponentiated.
const SCORES: u64 = 4;
/// Further ones that the backward pass leaves in each block: the gradients of bias and maximum, which nobody asked for.
const SCORE_GRADIENTS: u64 = 2;
/// Further ones that it holds at a time: a gradient before and after an operation, and a sum that it is added to.
const SCORE_GRADIENTS_AT_A_TIME: u64 = 3;
/// `[S, T, dim]` numbers that a block keeps: two norms of 3, 12 of the attention, 14 of the MLP that is 4 times as wide.
const WIDTHS: u64 = 32;

/// Bytes without which `sequences` sequences of `len` tokens do not go through the model; `None` from 2⁶⁴ on. A loss that
/// starts from hidden states has no tensor of logits.
fn bytes(config: Config, pass: Pass, sequences: u64, len: u64) -> Option<u64> {
    let (layers, heads) = (config.layers as u64, config.heads as u64);
    let (scores, logits) = if pass.backward {
        ((SCORES + SCORE_GRADIENTS).checked_mul(layers)?.checked_add(SCORE_GRADIENTS_AT_A_TIME)?, 2)
    } else {
        (SCORES.checked_mul(layers)?, 1)
    };
    let scores = scores.checked_mul(heads)?.checked_mul(len)?.checked_mul(len)?;
    let widths = WIDTHS.checked_mul(layers)?.checked_mul(len)?.checked_mul(config.dim as u64)?;
    let logits = if pass.start == Start::Logits { logits } else { 0 };
    let logits = len.checked_mul(config.vocab as u64)?.checked_mul(logits)?;
    scores
        .checked_add(widths)?
        .checked_add(logits)?
        .checked_mul(sequences)?
        .checked_mul(size_of::<f32>() as u64)
}

/// Refuses batches of `pairs_per_batch` of these pairs, of the file `name`, where the longest of them would make a batch
/// that the system has no memory for.
///
/// It is asked for a little less than it takes, so that nothing is refused that would go. A GPU's memory is not asked.
pub fn check(
    config: Config,
    pass: Pass,
    pairs: &[PairTokens],
    pairs_per_batch: usize,
    name: &Path,
    max_length: usize,
    device: &Device,
) -> Result<()> {
    let Some(longest) = pairs.iter().max_by_key(|pair| pair.longest()) else { return Ok(()) };
    let len = longest.longest();
    let sequences = (pairs_per_batch as u64).checked_mul(2);
    let needed = match sequences.and_then(|sequences| bytes(config, pass, sequences, len as u64)) {
        Some(bytes) if !device.is_cpu() || system_gives(bytes) => return Ok(()),
        Some(bytes) => format!("at least {:.1} GB, more than the system gives", bytes as f64 / 1e9),
        None => "more bytes than can be counted".to_string(),
    };
    bail!(
        "{}:{}: {len} tokens: a batch of {pairs_per_batch} pairs of that length needs {needed}: \
         set --max-length, now {max_length}, lower",
        name.display(),
        longest.line
    )
}

/// Whether the allocator takes this much at once, within the limits of the process and of the machine. None of it is
/// touched, and it is given back.
fn system_gives(bytes: u64) -> bool {
    let mut probe = Vec::<u8>::new();
    let given = usize::try_from(bytes).is_ok_and(|bytes| probe.try_reserve_exact(bytes).is_ok());
    // Without a use of it the compiler may leave out the allocation.
    black_box(probe);
    given
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::Tokens;
    use crate::train::MODEL;

    const PASSES: [Pass; 3] = [
        Pass { backward: false, start: Start::Hidden },
        Pass { backward: false, start: Start::Logits },
        Pass { backward: true, start: Start::Logits },
    ];

    fn refusal(len: usize, pairs_per_batch: usize) -> Option<String> {
        let tokens = |len| Tokens { ids: vec![0; len], labels: vec![0; len] };
        let pairs = [
            PairTokens { line: 3, chosen: tokens(5), rejected: tokens(4) },
            PairTokens { line: 7, chosen: tokens(2), rejected: tokens(len) },
        ];
        let checked =
            check(MODEL, PASSES[0], &pairs, pairs_per_batch, Path::new("x.jsonl"), 1 << 30, &Device::Cpu);
        checked.err().map(|error| error.to_string())
    }

    #[test]
    fn what_no_machine_has_is_refused_by_line_and_length() {
        assert_eq!(refusal(200, 8), None);
        let error = refusal(1 << 22, 8).unwrap();
        assert!(error.starts_with("x.jsonl:7: 4194304 tokens: a batch of 8 pairs of that length needs"));
        assert!(error.contains("GB, more than the system gives"), "{error}");
        assert!(error.ends_with(": set --max-length, now 1073741824, lower"), "{error}");
    }

    #[test]
    fn what_overflows_is_refused_too() {
        for pairs_per_batch in [usize::MAX / 2, usize::MAX] {
            let error = refusal(200, pairs_per_batch).unwrap();
            assert!(error.contains("more bytes than can be counted"), "{error}");
        }
        let endless = Config { layers: usize::MAX, ..MODEL };
        for pass in PASSES {
            assert_eq!(bytes(endless, pass, 2, 10), None);
            assert_eq!(bytes(MODEL, pass, 2, u64::MAX), None);
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_tensors() {
        // One head, one block, everything of width 1, three sequences of ten tokens.
        let one = Config { vocab: 1, dim: 1, heads: 1, layers: 1 };
        let bytes = PASSES.map(|pass| bytes(one, pass, 3, 10).unwrap());
        assert_eq!(bytes[2], 3 * 4 * (900 + 320 + 20));
        assert_eq!(bytes[1], 3 * 4 * (400 + 320 + 10));
        assert_eq!(bytes[0], 3 * 4 * (400 + 320));
    }
}
