//! How a pass over rows is cut into pieces of work, and which of them write past the caches.

/// Logits below which a piece of work is not worth handing to another thread.
const TASK_LOGITS: usize = 1 << 14;

/// Bytes of gradient from which on it is written past the caches, except over logits that were just read. What is
/// smaller may still be there when the caller reads it; what is larger would be read into them only to be overwritten,
/// half as much traffic again.
pub const STREAM_BYTES: usize = 8 << 20;

/// Rows of a piece of work.
pub fn task_rows(vocab: usize) -> usize {
    TASK_LOGITS.div_ceil(vocab)
}
