//! Log-probs under the reference, kept in a file: computed once over a data set, for every epoch and run after.
//!
//! The reference is frozen, so its log-prob of a sequence is one number. [`RefCache::ref_logps`] stands where the
//! reference's pass would, batch by batch, and makes the pass only for a batch that is not known yet:
//!
//! ```
//! use dpo_kernels::ref_cache::{Fingerprint, RefCache};
//! use dpo_kernels::{Error, HostBatch, LabelAlignment, Logps, cpu};
//!
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("ref_logps.cache");
//! let reference = Fingerprint::new("model", "org/base@3f2a91c").with("dtype", "bf16").with("device", "cpu");
//! let mut cache = RefCache::open(&path, reference)?; // refuses a file of another reference
//!
//! // For every batch of the data set, token ids and labels as the model gets them.
//! let batch = HostBatch::padded(2, 3, 5, LabelAlignment::Aligned);
//! let (ids, labels) = ([1, 2, 3, 1, 2, 4], [2i64, 3, -100, 2, 4, -100]);
//! let keys = batch.sequence_keys(&ids, labels[..].into())?;
//! let ref_logps = cache.ref_logps(&keys, || {
//!     let logits = [0.5f32; 2 * 3 * 5]; // the reference model's
//!     let mut out = Logps::default();
//!     cpu::logps(&batch, &logits, labels[..].into(), &mut out)?;
//!     Ok::<_, Error>(out.logps)
//! })?;
//! cache.save()?;
//!
//! // Another epoch, or another run: the same bits, without the model.
//! let mut cache = RefCache::open(&path, reference)?;
//! let again = cache.ref_logps::<Error>(&keys, || unreachable!("all of it is known"))?;
//! assert_eq!(again, ref_logps);
//! # Ok::<(), Error>(())
//! ```
//!
//! **What a number depends on** is the caller's to say, and the cache's to hold against the file. [`Fingerprint`] is of
//! what all sequences share: the model and its weights, the type it computes in, the device. [`SequenceKey`] is of the
//! sequence: its token ids, what its rows predict, and whatever of the batch `logps` looks at. A tokenizer, a template
//! or a mask that changes, changes keys, and what has no entry is computed; a model that changes, changes the
//! fingerprint, and the file is refused. Two different things have the same 128-bit hash with a probability of
//! 2⁻¹²⁸; these are not hashes to resist an attacker.
//!
//! **A run that is cut off** loses what it computed since the last save, a minute's worth unless
//! [told otherwise](RefCache::with_save_interval). The next computes the batches that are missing, and no other. A file
//! is written beside its path and then renamed, so that there is the old one or the new one and never a part of one;
//! of several writers, the last is the one whose file stays. One that is killed while it writes leaves a
//! `….tmp` behind, which nothing reads.
//!
//! # The file
//!
//! Little-endian, of `44 + 24·n` bytes, hashes as numbers. Entries ascend by their hashes.
//!
//! | offset | type | what |
//! |---|---|---|
//! | 0 | `[u8; 8]` | `DPOREFLP` |
//! | 8 | u32 | version of this layout: 1 |
//! | 12 | u128 | the [`Fingerprint`] |
//! | 28 | u64 | n, the number of entries |
//! | 36 + 24·i | u128 | hash of a [`SequenceKey`] |
//! | 52 + 24·i | f32 | its log-prob, in nats; finite |
//! | 56 + 24·i | u32 | its number of scored tokens |
//! | 36 + 24·n | u64 | XXH3-64 of all bytes before |

mod fingerprint;
mod layout;
pub(crate) mod problem;
mod sequence_key;
mod whole_file;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use self::layout::{Entries, Entry, decode, encode};
use self::whole_file::write_whole;
use crate::error::{Error, Result};

pub use fingerprint::Fingerprint;
pub use problem::Problem;
pub use sequence_key::SequenceKey;

/// How long a run computes before what it has is saved.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);

/// Log-probs of sequences under one reference, and the file they are kept in. See [the module](self).
#[derive(Debug)]
pub struct RefCache {
    path: PathBuf,
    fingerprint: Fingerprint,
    entries: Entries,
    saved_entries: usize,
    saved_at: Instant,
    save_interval: Duration,
}

impl RefCache {
    /// The cache in the file at `path`. Where there is no file, an empty one is made, so that a path that cannot be
    /// written is known before anything is computed for it.
    ///
    /// # Errors
    ///
    /// [`Error::RefCache`] with [`Problem::Stale`] for a file of another reference; for one that is damaged or not a
    /// cache; and where the file cannot be read or made.
    pub fn open(path: impl Into<PathBuf>, fingerprint: Fingerprint) -> Result<Self> {
        let path = path.into();
        let problem = |problem| Error::RefCache { path: path.clone(), problem };
        match fs::read(&path) {
            Ok(bytes) => {
                let entries = decode(&bytes, fingerprint).map_err(problem)?;
                Ok(RefCache::with_entries(path, fingerprint, entries))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => RefCache::create(path, fingerprint),
            Err(error) => Err(problem(Problem::Io { action: "read", message: error.to_string() })),
        }
    }

    /// An empty cache, in the place of whatever is at `path`.
    ///
    /// # Errors
    ///
    /// [`Error::RefCache`] where the file cannot be written.
    pub fn create(path: impl Into<PathBuf>, fingerprint: Fingerprint) -> Result<Self> {
        let mut cache = RefCache::with_entries(path.into(), fingerprint, Entries::new());
        cache.write()?;
        Ok(cache)
    }

    fn with_entries(path: PathBuf, fingerprint: Fingerprint, entries: Entries) -> Self {
        RefCache {
            path,
            fingerprint,
            saved_entries: entries.len(),
            entries,
            saved_at: Instant::now(),
            save_interval: SAVE_INTERVAL,
        }
    }

    /// Saves whenever this much time has passed since the last save; zero is after every batch that is computed.
    pub fn with_save_interval(self, save_interval: Duration) -> Self {
        RefCache { save_interval, ..self }
    }

    /// Log-probs of the sequences of a batch, to the bit as they were computed first.
    ///
    /// Where one of them is not known, `compute` is called for all of them, so that the model is given the batch as it
    /// would be without a cache; it returns `[S]` log-probs, as `logps` gives them. Those that were known stay as they
    /// were.
    ///
    /// # Errors
    ///
    /// That of `compute`; [`Error::Length`] for what it returned; [`Error::RefCache`] with [`Problem::NonFinite`] for
    /// a log-prob that is infinite or NaN, and then none of the batch is kept; with [`Problem::Scored`] for an entry
    /// that is not the sequence's; and where the file cannot be written.
    pub fn ref_logps<E: From<Error>>(
        &mut self,
        keys: &[SequenceKey],
        compute: impl FnOnce() -> std::result::Result<Vec<f32>, E>,
    ) -> std::result::Result<Vec<f32>, E> {
        let known: Vec<Option<f32>> =
            keys.iter().enumerate().map(|(sequence, key)| self.get(sequence, key)).collect::<Result<_>>()?;
        if let Some(known) = known.into_iter().collect() {
            return Ok(known);
        }
        let computed = compute()?;
        Error::check_len("ref_logps", "[sequences]", keys.len(), computed.len())?;
        if let Some(sequence) = computed.iter().position(|logp| !logp.is_finite()) {
            return Err(self.problem(Problem::NonFinite { sequence, logp: computed[sequence] }).into());
        }
        let mut kept = Vec::with_capacity(keys.len());
        for (key, &logp) in keys.iter().zip(&computed) {
            let entry = self.entries.entry(key.hash).or_insert(Entry { logp, scored: key.scored });
            kept.push(entry.logp);
        }
        if self.saved_at.elapsed() >= self.save_interval {
            self.save()?;
        }
        Ok(kept)
    }

    /// The log-prob of a sequence of a batch, if it is known.
    fn get(&self, sequence: usize, key: &SequenceKey) -> Result<Option<f32>> {
        let Some(entry) = self.entries.get(&key.hash) else { return Ok(None) };
        if entry.scored != key.scored {
            let (expected, found) = (key.scored, entry.scored);
            return Err(self.problem(Problem::Scored { sequence, expected, found }));
        }
        Ok(Some(entry.logp))
    }

    /// Writes the file, if there is anything in the cache that is not in it.
    ///
    /// # Errors
    ///
    /// [`Error::RefCache`] where it cannot be written; the file that was there before still is.
    pub fn save(&mut self) -> Result<()> {
        if self.saved_entries == self.entries.len() { Ok(()) } else { self.write() }
    }

    fn write(&mut self) -> Result<()> {
        write_whole(&self.path, &encode(self.fingerprint, &self.entries))
            .map_err(|error| self.problem(Problem::Io { action: "write", message: error.to_string() }))?;
        self.saved_entries = self.entries.len();
        self.saved_at = Instant::now();
        Ok(())
    }

    fn problem(&self, problem: Problem) -> Error {
        Error::RefCache { path: self.path.clone(), problem }
    }

    /// Number of sequences whose log-probs are known.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
