//! Log-probs under the reference, kept in a file: computed once over a data set, for every epoch and run after.
//!
//! The reference is frozen, so its log-prob of a sequence is one number. [`RefCache::ref_logps`] stands where the
//! reference's pass would, batch by batch, and makes the pass only for a batch that is not known yet:
//!
//! ```
//! use dpo_kernels::ref_cache::{Fingerprint, RefCache};
//! use dpo_kernels::{Error, HostBatch, Logps, cpu};
//!
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("ref_logps.cache");
//! let reference = Fingerprint::new("model", "org/base@3f2a91c").with("dtype", "bf16").with("device", "cpu");
//! let mut cache = RefCache::open(&path, reference)?; // refuses a file of another reference
//!
//! // For every batch of the data set, token ids and labels as the model gets them.
//! let batch = HostBatch::padded(2, 3, 5);
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

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::batch::HostBatch;
use crate::error::{Error, Result};
use crate::labels::Labels;
use crate::pairs::Pairs;

const MAGIC: [u8; 8] = *b"DPOREFLP";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 36;
const ENTRY_BYTES: usize = 24;
const CHECKSUM_BYTES: usize = 8;

/// How long a run computes before what it has is saved.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);

/// What the log-probs of all sequences depend on, as a hash: this crate's version, and what the caller names.
///
/// Name what another run could have otherwise: the model and the revision of its weights (or the weights themselves),
/// its data type, the backend and the device where the last bit matters. The tokenizer need not be among them: its ids
/// are in the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(u128);

impl Fingerprint {
    /// Of one thing, by its name; [`with`](Self::with) adds others.
    pub fn new(name: &str, value: impl AsRef<[u8]>) -> Self {
        // Another version may round otherwise.
        Fingerprint(0).with("dpo-kernels", env!("CARGO_PKG_VERSION")).with(name, value)
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

/// Which sequence a log-prob is of, as a hash, and its number of scored tokens: see [`HostBatch::sequence_keys`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SequenceKey {
    hash: u128,
    scored: u32,
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
    /// `[S]` keys under which a [`RefCache`] keeps log-probs of the sequences; `ids` are the `[rows]` token ids that the
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
        "expected fingerprint {expected}, found {found}: it is of another model, data type, device or version"
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

#[derive(Debug, Clone, Copy)]
struct Entry {
    logp: f32,
    scored: u32,
}

type Entries = BTreeMap<u128, Entry>;

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

fn encode(fingerprint: Fingerprint, entries: &Entries) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + entries.len() * ENTRY_BYTES + CHECKSUM_BYTES);
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(fingerprint.0.to_le_bytes());
    bytes.extend((entries.len() as u64).to_le_bytes());
    for (hash, Entry { logp, scored }) in entries {
        bytes.extend(hash.to_le_bytes());
        bytes.extend(logp.to_le_bytes());
        bytes.extend(scored.to_le_bytes());
    }
    let checksum = xxh3_64(&bytes);
    bytes.extend(checksum.to_le_bytes());
    bytes
}

/// What is wrong with a file is said in the order of what can be trusted: that it is a cache, of this version, whole,
/// undamaged, and then what it is of.
fn decode(bytes: &[u8], wanted: Fingerprint) -> std::result::Result<Entries, Problem> {
    let found = bytes.len() as u64;
    let too_short = || Problem::Size { expected: (HEADER_BYTES + CHECKSUM_BYTES) as u64, found };
    let mut rest = bytes;
    if take(&mut rest) != Some(MAGIC) {
        return Err(Problem::NotACache);
    }
    let version = u32::from_le_bytes(take(&mut rest).ok_or_else(too_short)?);
    if version != VERSION {
        return Err(Problem::Version { expected: VERSION, found: version });
    }
    let fingerprint = Fingerprint(u128::from_le_bytes(take(&mut rest).ok_or_else(too_short)?));
    let count = u64::from_le_bytes(take(&mut rest).ok_or_else(too_short)?);

    let expected =
        count.saturating_mul(ENTRY_BYTES as u64).saturating_add((HEADER_BYTES + CHECKSUM_BYTES) as u64);
    let Some((content, &checksum)) = bytes.split_last_chunk().filter(|_| found == expected) else {
        return Err(Problem::Size { expected, found });
    };
    let (expected, found) = (xxh3_64(content), u64::from_le_bytes(checksum));
    if expected != found {
        return Err(Problem::Checksum { expected, found });
    }
    if fingerprint != wanted {
        return Err(Problem::Stale { expected: wanted, found: fingerprint });
    }

    let mut entries = Entries::new();
    while let Some((hash, logp, scored)) = take_entry(&mut rest) {
        let ascends = entries.last_key_value().is_none_or(|(&last, _)| last < hash);
        if !ascends || !logp.is_finite() {
            return Err(Problem::Entry { entry: entries.len() });
        }
        entries.insert(hash, Entry { logp, scored });
    }
    Ok(entries)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (&first, others) = rest.split_first_chunk()?;
    *rest = others;
    Some(first)
}

/// What is left in the end is the checksum, which is shorter than an entry.
fn take_entry(rest: &mut &[u8]) -> Option<(u128, f32, u32)> {
    let hash = u128::from_le_bytes(take(rest)?);
    Some((hash, f32::from_le_bytes(take(rest)?), u32::from_le_bytes(take(rest)?)))
}

/// Puts a file with these contents in the place of what is at `path`, at once.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (mut file, beside) = create_beside(path)?;
    // On the disk before it has the name: else a crash of the machine could leave the name without the contents.
    let written =
        file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // It is of no use to anyone, and the first error is the one to tell.
        let _ = fs::remove_file(&beside);
    }
    written
}

/// A new file in the folder of `path`, which no other writer has.
fn create_beside(path: &Path) -> io::Result<(File, PathBuf)> {
    static MADE: AtomicU64 = AtomicU64::new(0);
    loop {
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".{}.{}.tmp", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed)));
        let beside = path.with_file_name(name);
        match File::create_new(&beside) {
            // Left by a process of this number that was killed.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => (),
            made => return Ok((made?, beside)),
        }
    }
}
