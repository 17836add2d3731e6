//! What can be wrong with a cache.

use super::fingerprint::Fingerprint;

/// Why a cache is not used, or a number not put into it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The operating system refused to read or write the file.
    #[error("cannot {action} it: {message}")]
    Io {
        /// `"read"` or `"write"`.
        action: &'static str,
        /// What the system says.
        message: String,
    },
    /// The file does not begin as a cache does.
    #[error("expected a file that begins with \"DPOREFLP\", found another")]
    NotACache,
    /// The file has a layout of another version.
    #[error("expected version {expected}, found {found}")]
    Version {
        /// The version that is read and written.
        expected: u32,
        /// The file's.
        found: u32,
    },
    /// The file is cut short, or longer than it says.
    #[error("expected {expected} bytes, found {found}: delete it, and it is computed anew")]
    Size {
        /// Bytes that a file with its number of entries has; or, where even that is missing, the fewest.
        expected: u64,
        /// Bytes of the file.
        found: u64,
    },
    /// The file is damaged.
    #[error("expected a checksum of {expected:016x}, found {found:016x}: delete it, and it is computed anew")]
    Checksum {
        /// Of what is in the file.
        expected: u64,
        /// What the file says.
        found: u64,
    },
    /// An entry that no cache has: out of order, or not finite.
    #[error("expected ascending hashes and finite log-probs, found otherwise at entry {entry}")]
    Entry {
        /// The first such entry.
        entry: usize,
    },
    /// The log-probs are of another reference.
    #[error(
        "expected fingerprint {expected}, found {found}: it is of another model, data type or device, or of a version that rounds otherwise"
    )]
    Stale {
        /// Of the reference that log-probs are wanted of.
        expected: Fingerprint,
        /// Of the reference in the file.
        found: Fingerprint,
    },
    /// The entry of a sequence says that it has another number of scored tokens.
    #[error("sequence {sequence}: expected {expected} scored tokens, found {found}")]
    Scored {
        /// Position in the batch.
        sequence: usize,
        /// Of the sequence.
        expected: u32,
        /// Of the entry.
        found: u32,
    },
    /// The reference's log-prob of a sequence is infinite or not a number: its status says why.
    #[error("sequence {sequence}: expected a finite log-prob, found {logp}")]
    NonFinite {
        /// Position in the batch.
        sequence: usize,
        /// The log-prob.
        logp: f32,
    },
}
