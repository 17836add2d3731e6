//! What the log-prob of one sequence depends on.

use xxhash_rust::xxh3::Xxh3;

use crate::batch::HostBatch;
use crate::error::{Error, Result};
use crate::labels::Labels;
use crate::pairs::Pairs;

/// Which sequence a log-prob is of, as a hash, and its number of scored tokens: see [`HostBatch::sequence_keys`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SequenceKey {
    pub(super) hash: u128,
    pub(super) scored: u32,
}

impl SequenceKey {
    /// The key of the sequence together with what else the model was given: an image, say.
    pub fn with(self, value: impl AsRef<[u8]>) -> Self {
        let mut hash = Xxh3::new();
        hash.update(&self.hash.to_le_bytes());
        hash.update(value.as_ref());
        SequenceKey { hash: hash.digest128(), ..self }
    }

    /// Number of scored tokens.
    pub fn scored(&self) -> u32 {
        self.scored
    }
}

impl HostBatch<'_> {
    /// `[S]` keys under which a [`RefCache`](super::RefCache) keeps log-probs of the sequences; `ids` are the `[rows]` token ids that the
    /// model is given, `labels` as for `logps`.
    ///
    /// A key is of the ids of a sequence's rows, of what each row predicts (whatever the label alignment that says so)
    /// or that it is not scored, of the [`transform`](crate::Batch::transform), and under
    /// [`ld_alpha`](crate::Batch::ld_alpha) of how many tokens count in full, which is the other sequence's length. Rows
    /// of padding are among the rows: a model may round otherwise where it is given more of them. Where they are not
    /// to count, describe the sequences packed. Keys are the same on every machine, and in every version that reads
    /// the same files.
    ///
    /// # Errors
    ///
    /// Those of [`validate`](crate::Batch::validate), but for pairs that nothing here depends on; [`Error::Length`] that
    /// names `ids` or `labels`.
    pub fn sequence_keys(&self, ids: &[u32], labels: Labels<'_>) -> Result<Vec<SequenceKey>> {
        let batch = if self.ld_alpha == 1.0 { HostBatch { pairs: Pairs::None, ..*self } } else { *self };
        batch.validate()?;
        Error::check_len("ids", "[rows]", batch.rows(), ids.len())?;
        Error::check_len("labels", "[rows]", batch.rows(), labels.len())?;
        Ok((0..batch.sequences.count()).map(|s| batch.sequence_key(ids, labels, s)).collect())
    }

    fn sequence_key(&self, ids: &[u32], labels: Labels<'_>, s: usize) -> SequenceKey {
        let rows = self.sequences.range(s);
        let end = rows.end;
        let mut hash = Xxh3::new();
        let mut scored = 0u32;
        for row in rows {
            let label = self.label(labels, row, end);
            scored += u32::from(label.is_some());
            hash.update(&ids[row].to_le_bytes());
            hash.update(&[u8::from(label.is_some())]);
            hash.update(&label.unwrap_or_default().to_le_bytes());
        }
        let in_full = self.full_tokens(labels, s).min(scored as usize);
        for setting in [
            u64::from(self.transform.scale.to_bits()),
            // Neither a cap nor a vocabulary is 0.
            self.transform.softcap.map_or(0, |cap| u64::from(cap.to_bits())),
            self.transform.valid_vocab.map_or(0, |columns| columns as u64),
            u64::from(self.ld_alpha.to_bits()),
            in_full as u64,
        ] {
            hash.update(&setting.to_le_bytes());
        }
        SequenceKey { hash: hash.digest128(), scored }
    }
}
