//! From tokenised conversations to the tensors of a step.

use candle_core::{Device, Result, Tensor};
use dpo_kernels_candle::{IGNORE_INDEX, Targets};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::data::Pair;
use crate::tokenizer::{PAD, Tokens};

/// A tokenised preference pair: the prompt with either answer.
pub struct PairTokens {
    /// x and y_w.
    pub chosen: Tokens,
    /// x and y_l.
    pub rejected: Tokens,
}

impl From<&Pair> for PairTokens {
    fn from(pair: &Pair) -> Self {
        PairTokens {
            chosen: Tokens::new(&pair.prompt, &pair.chosen),
            rejected: Tokens::new(&pair.prompt, &pair.rejected),
        }
    }
}

/// Tokens `[S, T]` for the model and targets for its logits, all sequences filled up to the longest.
pub fn collate(sequences: &[&Tokens], device: &Device) -> Result<(Tensor, Targets)> {
    let len = sequences.iter().map(|tokens| tokens.len()).max().unwrap_or(0);
    let mut ids = vec![PAD; sequences.len() * len];
    let mut labels = vec![IGNORE_INDEX; sequences.len() * len];
    for (s, tokens) in sequences.iter().enumerate() {
        ids[s * len..][..tokens.len()].copy_from_slice(&tokens.ids);
        labels[s * len..][..tokens.len()].copy_from_slice(&tokens.labels);
    }
    let shape = (sequences.len(), len);
    let labels = Tensor::from_vec(labels, shape, device)?;
    Ok((Tensor::from_vec(ids, shape, device)?, Targets::padded(&labels)?))
}

/// [`collate`] for pairs: all chosen sequences, then all rejected ones.
pub fn collate_pairs(pairs: &[&PairTokens], device: &Device) -> Result<(Tensor, Targets)> {
    let chosen = pairs.iter().map(|pair| &pair.chosen);
    let rejected = pairs.iter().map(|pair| &pair.rejected);
    collate(&chosen.chain(rejected).collect::<Vec<_>>(), device)
}

/// Draws items in random order, each once before any comes again.
pub struct Shuffle {
    rng: StdRng,
    items: usize,
    left: Vec<usize>,
}

impl Shuffle {
    /// Draws of the indices below `items`, which is not 0.
    pub fn new(items: usize, seed: u64) -> Self {
        Shuffle { rng: StdRng::seed_from_u64(seed), items, left: Vec::new() }
    }

    /// The next `count` indices.
    pub fn draw(&mut self, count: usize) -> Vec<usize> {
        (0..count)
            .map(|_| {
                self.left.pop().unwrap_or_else(|| {
                    self.left.extend(0..self.items);
                    self.left.shuffle(&mut self.rng);
                    self.left.pop().expect("there are items")
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Message, Role};

    #[test]
    fn every_item_comes_once_before_any_comes_again() {
        let mut shuffle = Shuffle::new(5, 7);
        for _ in 0..3 {
            let mut items: Vec<usize> = [2, 3].into_iter().flat_map(|count| shuffle.draw(count)).collect();
            items.sort_unstable();
            assert_eq!(items, [0, 1, 2, 3, 4]);
        }
    }

    #[test]
    fn chosen_come_first_and_short_sequences_are_padded() {
        let message = |role, content: &str| vec![Message { role, content: content.to_string() }];
        let pair = PairTokens::from(&Pair {
            prompt: message(Role::User, "p"),
            chosen: message(Role::Assistant, "abc"),
            rejected: message(Role::Assistant, "d"),
        });
        let (tokens, targets) = collate_pairs(&[&pair, &pair], &Device::Cpu).unwrap();
        let tokens: Vec<Vec<u32>> = tokens.to_vec2().unwrap();
        assert_eq!(targets.sequences(), 4);
        assert_eq!(tokens[1], pair.chosen.ids);
        assert_eq!(tokens[2], [&pair.rejected.ids[..], &[PAD, PAD]].concat());
    }
}
