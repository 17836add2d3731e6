//! What the log-probs of a whole cache depend on.

use std::fmt;

use xxhash_rust::xxh3::Xxh3;

/// Counts the changes of this crate that may change the bits of a log-prob, so that a cache lasts from release to release
/// until one of them comes.
///
/// 1: a label that is all but certain is summed apart from the other tokens, by which log-probs near 0 have other bits than
/// before.
const NUMERICS: u32 = 1;

/// What the log-probs of all sequences depend on, as a hash: how this crate computes them, and what the caller names. A
/// release that changes no bit of a log-prob changes no fingerprint either.
///
/// Name what another run could have otherwise: the model and the revision of its weights (or the weights themselves),
/// its data type, the backend and the device where the last bit matters. The tokenizer need not be among them: its ids
/// are in the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub(super) u128);

impl Fingerprint {
    /// Of one thing, by its name; [`with`](Self::with) adds others.
    pub fn new(name: &str, value: impl AsRef<[u8]>) -> Self {
        Fingerprint(0).with("numerics", NUMERICS.to_le_bytes()).with(name, value)
    }

    /// Of one thing more; the order counts.
    pub fn with(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let (name, value) = (name.as_bytes(), value.as_ref());
        let mut hash = Xxh3::new();
        hash.update(&self.0.to_le_bytes());
        // With its length, so that no other split between name and value is the same.
        hash.update(&(name.len() as u64).to_le_bytes());
        hash.update(name);
        hash.update(value);
        Fingerprint(hash.digest128())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
