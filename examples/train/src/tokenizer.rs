//! Bytes as tokens, and a token for each thing that is not text.
//!
//! A conversation is `BOS` and then, for each message, the token of its role, its bytes and `END`. What the
//! assistant says in an answer is scored, `END` included: when to stop is part of an answer.

use clap::ValueEnum;
use dpo_kernels_candle::IGNORE_INDEX;

use crate::data::{Message, Role};

/// Fills sequences up to the length of the longest one in a batch.
pub const PAD: u32 = 256;
const BOS: u32 = 257;
const END: u32 = 258;
const SYSTEM: u32 = 259;
const USER: u32 = 260;
const ASSISTANT: u32 = 261;

/// Number of tokens.
pub const VOCAB: usize = 262;

/// A tokenised conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// The tokens.
    pub ids: Vec<u32>,
    /// The same where a token is scored, the ignore index elsewhere.
    pub labels: Vec<i64>,
}

/// Which end of a sequence that is too long is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TruncationMode {
    /// Cut the end of the answer
    KeepStart,
    /// Cut the start of the prompt
    KeepEnd,
}

impl Tokens {
    /// Tokenises `prompt` followed by `answer`, of which the assistant's messages are scored.
    pub fn new(prompt: &[Message], answer: &[Message]) -> Self {
        let mut tokens = Tokens { ids: vec![BOS], labels: vec![IGNORE_INDEX] };
        for message in prompt {
            tokens.push(message, false);
        }
        for message in answer {
            tokens.push(message, message.role == Role::Assistant);
        }
        tokens
    }

    /// The same with no more than `max_len` tokens.
    pub fn truncated(mut self, max_len: usize, mode: TruncationMode) -> Self {
        let excess = self.len().saturating_sub(max_len);
        match mode {
            TruncationMode::KeepStart => {
                self.ids.truncate(max_len);
                self.labels.truncate(max_len);
            }
            TruncationMode::KeepEnd => {
                self.ids.drain(..excess);
                self.labels.drain(..excess);
            }
        }
        // Nothing comes before the first token that could predict it.
        if let Some(label) = self.labels.first_mut() {
            *label = IGNORE_INDEX;
        }
        self
    }

    /// Whether a token is scored.
    pub fn is_scored(&self) -> bool {
        self.labels.iter().any(|&label| label != IGNORE_INDEX)
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    fn push(&mut self, message: &Message, scored: bool) {
        let role = match message.role {
            Role::System => SYSTEM,
            Role::User => USER,
            Role::Assistant => ASSISTANT,
        };
        self.ids.push(role);
        self.labels.push(IGNORE_INDEX);
        for id in message.content.bytes().map(u32::from).chain([END]) {
            self.ids.push(id);
            self.labels.push(if scored { i64::from(id) } else { IGNORE_INDEX });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(role: Role, content: &str) -> Message {
        Message { role, content: content.to_string() }
    }

    /// The messages back from the tokens.
    fn decode(ids: &[u32]) -> Vec<Message> {
        let (&bos, messages) = ids.split_first().unwrap();
        assert_eq!(bos, BOS);
        messages
            .split_inclusive(|&id| id == END)
            .map(|ids| {
                let role = match ids[0] {
                    SYSTEM => Role::System,
                    USER => Role::User,
                    ASSISTANT => Role::Assistant,
                    other => panic!("{other} is no role"),
                };
                let bytes = ids[1..ids.len() - 1].iter().map(|&id| u8::try_from(id).unwrap()).collect();
                Message { role, content: String::from_utf8(bytes).unwrap() }
            })
            .collect()
    }

    #[test]
    fn tokens_hold_the_whole_conversation() {
        let prompt = [message(Role::System, "Be brief."), message(Role::User, "Größe von π? 🥧\n")];
        let answer =
            [message(Role::Assistant, "3,14…"), message(Role::User, ""), message(Role::Assistant, "?")];
        let tokens = Tokens::new(&prompt, &answer);
        assert_eq!(decode(&tokens.ids), [&prompt[..], &answer[..]].concat());
        assert!(tokens.ids.iter().all(|&id| (id as usize) < VOCAB));
    }

    #[test]
    fn what_the_assistant_answers_is_scored() {
        let tokens = Tokens::new(
            &[message(Role::User, "a"), message(Role::Assistant, "b"), message(Role::User, "c")],
            &[message(Role::Assistant, "d"), message(Role::User, "e"), message(Role::Assistant, "f")],
        );
        let scored: Vec<i64> = tokens.labels.into_iter().filter(|&label| label != IGNORE_INDEX).collect();
        assert_eq!(scored, [i64::from(b'd'), END.into(), i64::from(b'f'), END.into()]);
    }

    #[test]
    fn truncation_cuts_one_end() {
        let tokens = Tokens::new(&[message(Role::User, "ab")], &[message(Role::Assistant, "cd")]);
        for len in 1..tokens.len() {
            let start = tokens.clone().truncated(len, TruncationMode::KeepStart);
            assert_eq!((&start.ids[..], &start.labels[..]), (&tokens.ids[..len], &tokens.labels[..len]));
            let end = tokens.clone().truncated(len, TruncationMode::KeepEnd);
            let cut = tokens.len() - len;
            assert_eq!(end.ids, tokens.ids[cut..]);
            assert_eq!((end.labels[0], &end.labels[1..]), (IGNORE_INDEX, &tokens.labels[cut + 1..]));
        }
        for mode in [TruncationMode::KeepStart, TruncationMode::KeepEnd] {
            assert_eq!(tokens.clone().truncated(tokens.len(), mode), tokens);
        }
    }
}
