//! From tokenised conversations to the tensors of a step.

use candle_core::{Device, Result, Tensor};
use dpo_kernels_candle::{IGNORE_INDEX, LabelAlignment, Targets};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::data::Pair;
use crate::tokenizer::{PAD, Tokens, TruncationMode};

/// A tokenised preference pair: the prompt with either answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairTokens {
    /// The line of its file.
    pub line: usize,
    /// x and y_w.
    pub chosen: Tokens,
    /// x and y_l.
    pub rejected: Tokens,
}

impl PairTokens {
    /// Number of tokens of the longer sequence.
    pub fn longest(&self) -> usize {
        self.chosen.len().max(self.rejected.len())
    }
}

/// What a limit on the length did to the pairs of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Truncated {
    /// Number of sequences that were cut.
    pub sequences: usize,
    /// Lines of the pairs that are left out: no answer, or no difference between the answers, was within the limit.
    pub left_out: Vec<usize>,
}

/// Tokenises pairs, with no more than `max_len` tokens in a sequence.
pub fn tokenize(pairs: &[Pair], max_len: usize, mode: TruncationMode) -> (Vec<PairTokens>, Truncated) {
    let mut truncated = Truncated::default();
    let mut tokens = Vec::with_capacity(pairs.len());
    for Pair { line, prompt, chosen, rejected } in pairs {
        let [chosen, rejected] = [chosen, rejected].map(|answer| {
            let whole = Tokens::new(prompt, answer);
            truncated.sequences += usize::from(whole.len() > max_len);
            whole.truncated(max_len, mode)
        });
        if chosen.is_scored() && rejected.is_scored() && chosen != rejected {
            tokens.push(PairTokens { line: *line, chosen, rejected });
        } else {
            truncated.left_out.push(*line);
        }
    }
    (tokens, truncated)
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
    let targets = Targets::padded(&labels, LabelAlignment::NextToken)?;
    Ok((Tensor::from_vec(ids, shape, device)?, targets))
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

    /// The same after `count` draws.
    pub fn after(mut self, count: usize) -> Self {
        for _ in 0..count {
            self.next();
        }
        self
    }

    /// The next `count` indices.
    pub fn draw(&mut self, count: usize) -> Vec<usize> {
        (0..count).map(|_| self.next()).collect()
    }

    fn next(&mut self) -> usize {
        self.left.pop().unwrap_or_else(|| {
            self.left.extend(0..self.items);
            self.left.shuffle(&mut self.rng);
            self.left.pop().expect("there are items")
        })
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
    fn draws_go_on_where_they_stopped() {
        let mut whole = Shuffle::new(5, 7);
        let all = whole.draw(23);
        for done in 0..23 {
            assert_eq!(Shuffle::new(5, 7).after(done).draw(23 - done), all[done..]);
        }
    }

    fn pair(prompt: &str, chosen: &str, rejected: &str) -> Pair {
        let message = |role, content: &str| vec![Message { role, content: content.to_string() }];
        Pair {
            line: 4,
            prompt: message(Role::User, prompt),
            chosen: message(Role::Assistant, chosen),
            rejected: message(Role::Assistant, rejected),
        }
    }

    #[test]
    fn what_is_cut_is_counted_and_what_says_nothing_left_out() {
        // BOS, role, "pp", END, role, the answer, END.
        let pairs = [pair("pp", "abc", "dbc"), pair("pp", "abcd", "abce"), pair("pppppp", "abc", "dbc")];
        let cut = |max_len, mode| tokenize(&pairs, max_len, mode);
        let (tokens, truncated) = cut(14, TruncationMode::KeepStart);
        assert_eq!((tokens.len(), truncated), (3, Truncated::default()));

        // The second pair's answers differ in their last character only; of the third nothing but the prompt is left.
        let (tokens, truncated) = cut(9, TruncationMode::KeepStart);
        assert_eq!(truncated, Truncated { sequences: 6, left_out: vec![4, 4] });
        assert_eq!(tokens[0].chosen.ids[6..], [b'a', b'b', b'c'].map(u32::from));

        let (tokens, truncated) = cut(9, TruncationMode::KeepEnd);
        assert_eq!(truncated, Truncated { sequences: 6, left_out: vec![] });
        assert!(tokens.iter().all(|pair| pair.longest() == 9));
    }

    #[test]
    fn chosen_come_first_and_short_sequences_are_padded() {
        let (pairs, _) = tokenize(&[pair("p", "abc", "d")], 100, TruncationMode::KeepStart);
        let pair = &pairs[0];
        let (tokens, targets) = collate_pairs(&[pair, pair], &Device::Cpu).unwrap();
        let tokens: Vec<Vec<u32>> = tokens.to_vec2().unwrap();
        assert_eq!(targets.sequences(), 4);
        assert_eq!(tokens[1], pair.chosen.ids);
        assert_eq!(tokens[2], [&pair.rejected.ids[..], &[PAD, PAD]].concat());
    }
}
