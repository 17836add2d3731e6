//! The cache of reference log-probs: to the bit, never of another reference, never half a file.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dpo_kernels::cpu;
use dpo_kernels::ref_cache::{Fingerprint, Problem, RefCache, SequenceKey};
use dpo_kernels::{
    Error, Forward, HostBatch, LabelAlignment, Labels, Logps, PairInputs, PairLoss, Pairs, Sequences,
    Transform, reference,
};
use xxhash_rust::xxh3::xxh3_64;

const HEADER: usize = 36;
const ENTRY: usize = 24;
const CHECKSUM: usize = 8;

fn of_model(revision: &str) -> Fingerprint {
    Fingerprint::new("model", revision).with("dtype", "f32")
}

/// A folder for this test alone, and a path in it.
fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ref_logps.cache");
    (folder, path)
}

/// Keys of sequences of one token each, a different one for each of `ids`.
fn keys(ids: std::ops::Range<u32>) -> Vec<SequenceKey> {
    let ids: Vec<u32> = ids.collect();
    let labels = vec![1i64; ids.len()];
    HostBatch::padded(ids.len(), 1, 5, LabelAlignment::Aligned)
        .sequence_keys(&ids, labels[..].into())
        .unwrap()
}

/// The log-probs of `keys`, which must be known.
fn known(cache: &mut RefCache, keys: &[SequenceKey]) -> Vec<f32> {
    cache.ref_logps::<Error>(keys, || panic!("computed again")).unwrap()
}

fn problem<T: std::fmt::Debug>(result: Result<T, Error>) -> Problem {
    match result.unwrap_err() {
        Error::RefCache { problem, .. } => problem,
        other => panic!("{other:?}"),
    }
}

/// The bytes of a file with these log-probs.
fn file_of(path: &Path, logps: &[f32]) -> Vec<u8> {
    let mut cache = RefCache::create(path, of_model("a")).unwrap();
    cache.ref_logps::<Error>(&keys(0..logps.len() as u32), || Ok(logps.to_vec())).unwrap();
    cache.save().unwrap();
    fs::read(path).unwrap()
}

/// Opens a file with these bytes.
fn open_bytes(path: &Path, bytes: &[u8]) -> Result<RefCache, Error> {
    fs::write(path, bytes).unwrap();
    RefCache::open(path, of_model("a"))
}

/// Makes the checksum true again.
fn sign(bytes: &mut [u8]) {
    let (content, checksum) = bytes.split_last_chunk_mut::<CHECKSUM>().unwrap();
    *checksum = xxh3_64(content).to_le_bytes();
}

mod round_trip {
    use super::*;

    #[test]
    fn every_bit_comes_back() {
        let (_folder, path) = place();
        let logps = [-0.0, 0.0, -1e-45, f32::MIN_POSITIVE, f32::MIN, -123.456_78, -1.0 / 3.0];
        file_of(&path, &logps);
        let mut cache = RefCache::open(&path, of_model("a")).unwrap();
        assert_eq!(cache.len(), logps.len());
        let found = known(&mut cache, &keys(0..logps.len() as u32));
        assert_eq!(found.map_bits(), logps.to_vec().map_bits());
    }

    trait Bits {
        fn map_bits(self) -> Vec<u32>;
    }

    impl Bits for Vec<f32> {
        fn map_bits(self) -> Vec<u32> {
            self.into_iter().map(f32::to_bits).collect()
        }
    }

    #[test]
    fn the_file_is_as_documented_whatever_the_order() {
        let (_folder, path) = place();
        let bytes = file_of(&path, &[-1.5, -2.5]);
        assert_eq!(bytes.len(), HEADER + 2 * ENTRY + CHECKSUM);
        assert_eq!(bytes[..8], *b"DPOREFLP");
        assert_eq!(bytes[8..12], 1u32.to_le_bytes());
        assert_eq!(bytes[28..36], 2u64.to_le_bytes());
        let fingerprint = u128::from_le_bytes(bytes[12..28].try_into().unwrap());
        assert_eq!(format!("{fingerprint:032x}"), of_model("a").to_string());
        let entries: Vec<(u128, f32, u32)> = bytes[HEADER..HEADER + 2 * ENTRY]
            .chunks_exact(ENTRY)
            .map(|entry| {
                let hash = u128::from_le_bytes(entry[..16].try_into().unwrap());
                let logp = f32::from_le_bytes(entry[16..20].try_into().unwrap());
                (hash, logp, u32::from_le_bytes(entry[20..].try_into().unwrap()))
            })
            .collect();
        assert!(entries[0].0 < entries[1].0);
        assert!(entries.iter().all(|&(_, logp, scored)| (logp == -1.5 || logp == -2.5) && scored == 1));

        let mut cache = RefCache::create(&path, of_model("a")).unwrap();
        for (key, logp) in keys(0..2).into_iter().zip([-1.5, -2.5]).rev() {
            cache.ref_logps::<Error>(&[key], || Ok(vec![logp])).unwrap();
        }
        cache.save().unwrap();
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }

    #[test]
    fn the_policy_at_step_0_is_the_cached_reference() {
        let (_folder, path) = place();
        let (batch, loss) =
            (HostBatch::padded(4, 3, 7, LabelAlignment::Aligned), PairLoss::sigmoid(0.1).unwrap());
        let logits: Vec<f32> = (0..4 * 3 * 7).map(|i| (i * 37 % 101) as f32 * 0.1 - 5.0).collect();
        let ids: Vec<u32> = (0..12).map(|i| i * 5 % 7).collect();
        let labels: Vec<i64> = (0..12).map(|i| if i % 3 == 2 { -100 } else { i * 3 % 7 }).collect();
        let labels = Labels::from(&labels[..]);
        let keys = batch.sequence_keys(&ids, labels).unwrap();
        let mut cache = RefCache::open(&path, of_model("a")).unwrap();
        let computed = cache.ref_logps(&keys, || {
            let mut out = Logps::default();
            cpu::logps(&batch, &logits, labels, &mut out)?;
            assert_eq!(out.scored, keys.iter().map(SequenceKey::scored).collect::<Vec<_>>());
            Ok::<_, Error>(out.logps)
        });
        cache.save().unwrap();

        let mut cache = RefCache::open(&path, of_model("a")).unwrap();
        let ref_logps = known(&mut cache, &keys);
        assert_eq!(ref_logps, computed.unwrap());
        let mut out = Forward::default();
        cpu::forward(&batch, &logits, labels, &PairInputs::reference(&ref_logps), &loss, &mut out).unwrap();
        assert_eq!(out.logps.logps, ref_logps);
        assert_eq!((out.pairs.chosen_rewards, out.pairs.rejected_rewards), (vec![0.0; 2], vec![0.0; 2]));
        assert_eq!(out.pairs.metrics.loss, 2f32.ln());
    }
}

mod refusals {
    use super::*;

    /// A fingerprint is of how log-probs are computed and not of the release: this number stays until `NUMERICS` is
    /// raised, and so do the caches of a data set.
    #[test]
    fn a_patch_release_keeps_a_data_set_s_cache() {
        assert_eq!(of_model("a").to_string(), "3fa26ddb5022faa2d34d69d076b5d9c8");
    }

    #[test]
    fn a_file_of_another_reference_is_refused_and_kept() {
        let (_folder, path) = place();
        let bytes = file_of(&path, &[-1.5]);
        let others = [
            of_model("b"),
            of_model("a").with("device", "cpu"),
            Fingerprint::new("model", "a").with("dtype", "bf16"),
            Fingerprint::new("dtype", "f32").with("model", "a"),
            Fingerprint::new("modela", "").with("dtype", "f32"),
        ];
        for other in others {
            let found = problem(RefCache::open(&path, other));
            assert_eq!(found, Problem::Stale { expected: other, found: of_model("a") });
        }
        assert_eq!(fs::read(&path).unwrap(), bytes);

        // Unless it is to be replaced.
        assert!(RefCache::create(&path, of_model("b")).unwrap().is_empty());
        assert!(RefCache::open(&path, of_model("b")).unwrap().is_empty());
    }

    #[test]
    fn no_flipped_bit_goes_unnoticed() {
        let (_folder, path) = place();
        let bytes = file_of(&path, &[-1.5, -2.5]);
        assert_eq!(open_bytes(&path, &bytes).unwrap().len(), 2);
        for bit in 0..8 * bytes.len() {
            let (at, mut damaged) = (bit / 8, bytes.clone());
            damaged[at] ^= 1 << (bit % 8);
            let found = problem(open_bytes(&path, &damaged));
            let noticed = match at {
                0..8 => found == Problem::NotACache,
                8..12 => matches!(found, Problem::Version { expected: 1, .. }),
                28..36 => matches!(found, Problem::Size { .. }),
                // The fingerprint, the entries, and the checksum itself.
                _ => matches!(found, Problem::Checksum { .. }),
            };
            assert!(noticed, "byte {at}: {found:?}");
        }
    }

    #[test]
    fn no_missing_or_added_byte_goes_unnoticed() {
        let (_folder, path) = place();
        let bytes = file_of(&path, &[-1.5, -2.5]);
        for len in 0..bytes.len() {
            let found = problem(open_bytes(&path, &bytes[..len]));
            match len {
                0..8 => assert_eq!(found, Problem::NotACache),
                8..HEADER => {
                    assert_eq!(found, Problem::Size { expected: 44, found: len as u64 });
                }
                _ => assert_eq!(found, Problem::Size { expected: 92, found: len as u64 }),
            }
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(problem(open_bytes(&path, &longer)), Problem::Size { expected: 92, found: 93 });
        // A count that no file can have.
        let mut endless = bytes;
        endless[28..36].copy_from_slice(&u64::MAX.to_le_bytes());
        sign(&mut endless);
        assert_eq!(problem(open_bytes(&path, &endless)), Problem::Size { expected: u64::MAX, found: 92 });
    }

    #[test]
    fn what_another_program_wrote_is_looked_at_too() {
        let (_folder, path) = place();
        let bytes = file_of(&path, &[-1.5, -2.5]);
        let with = |change: fn(&mut [u8])| {
            let mut changed = bytes.clone();
            change(&mut changed);
            sign(&mut changed);
            open_bytes(&path, &changed)
        };
        let later = problem(with(|bytes| bytes[8..12].copy_from_slice(&2u32.to_le_bytes())));
        assert_eq!(later, Problem::Version { expected: 1, found: 2 });
        for logp in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut changed = bytes.clone();
            changed[HEADER + ENTRY + 16..][..4].copy_from_slice(&logp.to_le_bytes());
            sign(&mut changed);
            assert_eq!(problem(open_bytes(&path, &changed)), Problem::Entry { entry: 1 });
        }
        let swapped = problem(with(|bytes| bytes[HEADER..HEADER + 2 * ENTRY].rotate_left(ENTRY)));
        assert_eq!(swapped, Problem::Entry { entry: 1 });
        let twice = problem(with(|bytes| bytes.copy_within(HEADER..HEADER + ENTRY, HEADER + ENTRY)));
        assert_eq!(twice, Problem::Entry { entry: 1 });

        // An entry of as many scored tokens as the sequence does not have.
        let mut cache = with(|bytes| {
            for entry in 0..2 {
                bytes[HEADER + entry * ENTRY + 20] = 7;
            }
        })
        .unwrap();
        let found = cache.ref_logps::<Error>(&keys(0..2), || panic!("computed again"));
        assert_eq!(problem(found), Problem::Scored { sequence: 0, expected: 1, found: 7 });
    }

    #[test]
    fn what_is_not_finite_is_named_and_not_kept() {
        let (_folder, path) = place();
        let mut cache = RefCache::open(&path, of_model("a")).unwrap();
        for logp in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let error = cache.ref_logps::<Error>(&keys(0..3), || Ok(vec![-1.0, -2.0, logp])).unwrap_err();
            let text = format!(
                "reference cache {}: sequence 2: expected a finite log-prob, found {logp}",
                path.display()
            );
            assert_eq!(error.to_string(), text);
            assert!(matches!(error, Error::RefCache { problem: Problem::NonFinite { sequence: 2, .. }, .. }));
        }
        assert!(cache.is_empty());
    }

    #[test]
    fn failures_of_the_model_are_the_callers() {
        #[derive(Debug)]
        enum Failure {
            OutOfMemory,
            Ours(Error),
        }
        impl From<Error> for Failure {
            fn from(error: Error) -> Self {
                Failure::Ours(error)
            }
        }
        let (_folder, path) = place();
        let mut cache = RefCache::open(&path, of_model("a")).unwrap();
        let failed = cache.ref_logps(&keys(0..2), || Err(Failure::OutOfMemory));
        assert!(matches!(failed, Err(Failure::OutOfMemory)));
        let short = cache.ref_logps(&keys(0..2), || Ok::<_, Failure>(vec![-1.0]));
        assert!(matches!(short, Err(Failure::Ours(Error::Length { argument: "ref_logps", .. }))));
        assert!(cache.is_empty());
    }

    #[test]
    fn a_path_that_cannot_be_written_is_known_at_once() {
        let (folder, _) = place();
        let no_folder = folder.path().join("missing/ref_logps.cache");
        assert!(matches!(
            problem(RefCache::open(no_folder, of_model("a"))),
            Problem::Io { action: "write", .. }
        ));
        let is_folder = folder.path().join("folder");
        fs::create_dir(&is_folder).unwrap();
        assert!(matches!(
            problem(RefCache::open(&is_folder, of_model("a"))),
            Problem::Io { action: "read", .. }
        ));
        // A failed write leaves nothing behind.
        assert!(matches!(
            problem(RefCache::create(&is_folder, of_model("a"))),
            Problem::Io { action: "write", .. }
        ));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

mod runs {
    use super::*;

    /// Goes over `batches` of two sequences each and says which were computed; stops before `cut_off`.
    fn run(cache: &mut RefCache, batches: u32, cut_off: u32) -> Vec<u32> {
        let mut computed = Vec::new();
        for batch in 0..batches.min(cut_off) {
            let logps = vec![-(batch as f32), -0.5 - batch as f32];
            let found = cache.ref_logps::<Error>(&keys(2 * batch..2 * batch + 2), || {
                computed.push(batch);
                Ok(logps.clone())
            });
            assert_eq!(found.unwrap(), logps);
        }
        computed
    }

    #[test]
    fn a_run_that_was_cut_off_computes_what_is_missing() {
        let (_folder, path) = place();
        let open = || RefCache::open(&path, of_model("a")).unwrap();
        assert_eq!(run(&mut open().with_save_interval(Duration::ZERO), 5, 3), [0, 1, 2]);
        assert_eq!(run(&mut open().with_save_interval(Duration::ZERO), 5, 5), [3, 4]);
        assert_eq!(run(&mut open(), 5, 5), [0; 0]);

        // As if it had not been cut off.
        let resumed = fs::read(&path).unwrap();
        let mut cache = RefCache::create(&path, of_model("a")).unwrap();
        run(&mut cache, 5, 5);
        cache.save().unwrap();
        assert_eq!(fs::read(&path).unwrap(), resumed);
    }

    #[test]
    fn what_was_not_saved_is_computed_again() {
        let (_folder, path) = place();
        let open = || RefCache::open(&path, of_model("a")).unwrap().with_save_interval(Duration::MAX);
        assert_eq!(run(&mut open(), 2, 2), [0, 1]);
        let mut cache = open();
        assert_eq!(run(&mut cache, 2, 2), [0, 1]);
        cache.save().unwrap();
        assert_eq!(run(&mut open(), 3, 3), [2]);
    }

    #[test]
    fn a_batch_that_is_known_in_part_is_computed_whole_and_keeps_what_was_known() {
        let (_folder, path) = place();
        let mut cache = RefCache::open(&path, of_model("a")).unwrap();
        cache.ref_logps::<Error>(&keys(1..2), || Ok(vec![-1.0])).unwrap();
        let found = cache.ref_logps::<Error>(&keys(0..3), || Ok(vec![-10.0, -11.0, -12.0])).unwrap();
        assert_eq!(found, [-10.0, -1.0, -12.0]);
        assert_eq!(known(&mut cache, &keys(0..3)), found);
    }

    #[test]
    fn a_file_is_of_one_writer() {
        let (folder, path) = place();
        RefCache::create(&path, of_model("a")).unwrap();
        let sizes = [3u32, 50];
        std::thread::scope(|scope| {
            for (writer, size) in sizes.into_iter().enumerate() {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..50 {
                        let mut cache = RefCache::create(path, of_model("a")).unwrap();
                        let logps = vec![writer as f32; size as usize];
                        cache.ref_logps::<Error>(&keys(0..size), || Ok(logps)).unwrap();
                        cache.save().unwrap();
                    }
                });
            }
            for _ in 0..200 {
                let mut cache = RefCache::open(&path, of_model("a")).unwrap();
                let writer = sizes.iter().position(|&size| size as usize == cache.len());
                match writer {
                    Some(writer) => {
                        let found = known(&mut cache, &keys(0..sizes[writer]));
                        assert!(found.iter().all(|&logp| logp == writer as f32));
                    }
                    None => assert!(cache.is_empty()),
                }
            }
        });
        // Nothing lies about.
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_killed_writer_left_is_in_nobodys_way() {
        let (folder, path) = place();
        for n in 0..1000 {
            let left = format!("ref_logps.cache.{}.{n}.tmp", std::process::id());
            fs::write(folder.path().join(left), "half").unwrap();
        }
        file_of(&path, &[-1.5]);
        assert_eq!(RefCache::open(&path, of_model("a")).unwrap().len(), 1);
    }
}

/// Files that were valid before some of their bytes changed: never a panic, and what is read is what is there.
mod mutated_files {
    use std::env;

    use super::*;

    /// A number below `bound`, the same on every machine: the hash of how many were drawn before.
    struct Draws(u64);

    impl Draws {
        fn below(&mut self, bound: usize) -> usize {
            self.0 += 1;
            (xxh3_64(&self.0.to_le_bytes()) % bound as u64) as usize
        }
    }

    fn mutate(bytes: &mut Vec<u8>, draws: &mut Draws) {
        let at = draws.below(bytes.len() + 1);
        let end = bytes.len().min(at + draws.below(2 * ENTRY));
        match draws.below(8) {
            // These alone leave the size what it was, which is looked at first.
            0..=2 if at < bytes.len() => bytes[at] ^= 1 << draws.below(8),
            3 => bytes[at..end].fill([0, 0x7f, 0x80, 0xff][draws.below(4)]),
            4 => bytes.truncate(at),
            5 => drop(bytes.drain(at..end)),
            6 => {
                let copied = bytes[at..end].to_vec();
                bytes.splice(at..at, copied).for_each(drop);
            }
            // The number of entries.
            _ if bytes.len() >= HEADER => bytes[28 + draws.below(8)] = draws.below(256) as u8,
            _ => (),
        }
    }

    /// What the documented layout says is the first thing wrong with a file, in the words of the refusal.
    fn wrong_with(bytes: &[u8]) -> Option<String> {
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let size = |expected: u64| Some(Problem::Size { expected, found: bytes.len() as u64 }.to_string());
        if bytes.len() < 8 || bytes[..8] != *b"DPOREFLP" {
            return Some(Problem::NotACache.to_string());
        }
        if bytes.len() < 12 {
            return size((HEADER + CHECKSUM) as u64);
        }
        let version = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
        if version != 1 {
            return Some(Problem::Version { expected: 1, found: version }.to_string());
        }
        if bytes.len() < HEADER {
            return size((HEADER + CHECKSUM) as u64);
        }
        let whole = u128::from(number(28)) * ENTRY as u128 + (HEADER + CHECKSUM) as u128;
        let whole = u64::try_from(whole).unwrap_or(u64::MAX);
        if bytes.len() as u64 != whole {
            return size(whole);
        }
        let end = bytes.len() - CHECKSUM;
        let (expected, found) = (xxh3_64(&bytes[..end]), number(end));
        if expected != found {
            return Some(Problem::Checksum { expected, found }.to_string());
        }
        let fingerprint = format!("{:032x}", u128::from_le_bytes(bytes[12..28].try_into().unwrap()));
        if fingerprint != of_model("a").to_string() {
            return Some(format!("expected fingerprint {}, found {fingerprint}", of_model("a")));
        }
        let entries: Vec<(u128, f32)> = bytes[HEADER..end]
            .chunks_exact(ENTRY)
            .map(|entry| {
                let (hash, logp) = (entry[..16].try_into().unwrap(), entry[16..20].try_into().unwrap());
                (u128::from_le_bytes(hash), f32::from_le_bytes(logp))
            })
            .collect();
        let follows = |entry: usize| entry == 0 || entries[entry - 1].0 < entries[entry].0;
        let wrong = (0..entries.len()).find(|&entry| !follows(entry) || !entries[entry].1.is_finite());
        wrong.map(|entry| Problem::Entry { entry }.to_string())
    }

    #[test]
    fn are_refused_or_read_as_they_are() {
        let (_folder, path) = place();
        let files: u64 = env::var("DPO_MUTATED_FILES").map_or(10_000, |files| files.parse().unwrap());
        let valid = [1, 2, 3, 4].map(|entries| file_of(&path, &[-1.5, -2.5, -0.0, f32::MIN][..entries]));
        let mut draws = Draws(0);
        let (mut accepted, mut refused) = (0, 0);
        for _ in 0..files {
            let mut bytes = valid[draws.below(valid.len())].clone();
            for _ in 0..1 + draws.below(3) {
                mutate(&mut bytes, &mut draws);
            }
            // As another program would write it: else the checksum refuses all.
            let is_signed = bytes.len() >= CHECKSUM && draws.below(2) == 0;
            if is_signed {
                sign(&mut bytes);
            }
            let wrong = wrong_with(&bytes);
            match open_bytes(&path, &bytes) {
                Ok(mut cache) => {
                    accepted += 1;
                    assert_eq!(wrong, None);
                    assert!(is_signed || valid.contains(&bytes), "what is damaged was read");
                    assert_eq!(bytes.len(), HEADER + cache.len() * ENTRY + CHECKSUM);
                    // With an entry more, all the others are written as they were read.
                    let before = cache.len();
                    cache.ref_logps::<Error>(&keys(1000..1001), || Ok(vec![-7.0])).unwrap();
                    cache.save().unwrap();
                    let written = fs::read(&path).unwrap();
                    let entries = |bytes: &[u8]| -> Vec<[u8; ENTRY]> {
                        bytes[HEADER..bytes.len() - CHECKSUM].as_chunks().0.to_vec()
                    };
                    let found = entries(&written);
                    assert_eq!(found.len(), before + 1);
                    assert!(entries(&bytes).iter().all(|entry| found.contains(entry)));
                }
                Err(error) => {
                    refused += 1;
                    assert!(matches!(error, Error::RefCache { .. }), "{error:?}");
                    let wrong = wrong.unwrap_or_else(|| panic!("nothing is wrong, but {error}"));
                    let said = error.to_string();
                    let said = said.strip_prefix(&format!("reference cache {}: ", path.display()));
                    assert!(said.is_some_and(|said| said.starts_with(&wrong)), "{error}, expected {wrong}");
                }
            }
        }
        assert!(accepted > files / 50 && refused > files / 3, "{accepted} accepted, {refused} refused");
    }
}

/// `kill -9` at any moment: a process has no say in it.
#[cfg(unix)]
mod killed_at_any_moment {
    use std::env;
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};
    use std::thread::sleep;

    use super::*;

    /// Where the process that is killed has its cache.
    const PATH: &str = "DPO_REF_CACHE_KILLED";
    const BATCHES: u32 = 60;

    fn open(path: &Path) -> RefCache {
        RefCache::open(path, of_model("a")).unwrap().with_save_interval(Duration::ZERO)
    }

    fn logps(batch: u32) -> Vec<f32> {
        vec![-(batch as f32), -0.5 - batch as f32]
    }

    /// Goes over the batches and says which were computed; tells `saved` of each after it is in the file.
    fn run(path: &Path, mut saved: impl FnMut(u32)) -> Vec<u32> {
        let mut cache = open(path);
        let mut computed = Vec::new();
        for batch in 0..BATCHES {
            let found = cache.ref_logps::<Error>(&keys(2 * batch..2 * batch + 2), || {
                computed.push(batch);
                Ok(logps(batch))
            });
            assert_eq!(found.unwrap(), logps(batch));
            saved(batch);
        }
        computed
    }

    #[test]
    #[ignore = "the run that the next test kills, in a process of its own"]
    fn the_run() {
        if let Some(path) = env::var_os(PATH) {
            run(Path::new(&path), |batch| println!("\nsaved {batch}"));
        }
    }

    fn start(path: &Path) -> Child {
        Command::new(env::current_exe().unwrap())
            .args(["--exact", "killed_at_any_moment::the_run", "--ignored", "--nocapture"])
            .env(PATH, path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    #[test]
    fn the_last_save_is_whole_and_the_next_run_goes_on() {
        let (_whole, whole) = place();
        run(&whole, |_| ());
        let whole = fs::read(whole).unwrap();

        let kills = if env::var_os("DPO_REDUCED").is_some() { 10 } else { 50 };
        let (mut killed, mut trial) = (0, 0u64);
        while killed < kills {
            trial += 1;
            let drawn = xxh3_64(&trial.to_le_bytes());
            let (_folder, path) = place();
            let mut child = start(&path);
            let mut reports = BufReader::new(child.stdout.take().unwrap())
                .lines()
                .filter_map(|line| line.unwrap().strip_prefix("saved ")?.parse::<u32>().ok());
            // By what is saved and not by the clock alone: machines differ in speed.
            let enough = (drawn % u64::from(BATCHES)) as usize;
            let before = reports.by_ref().take(enough).last();
            sleep(Duration::from_micros(drawn >> 32 & 0xfff));
            child.kill().unwrap();
            let saved = reports.last().or(before).map_or(0, |batch| batch + 1);
            // A process that was killed has no exit code.
            killed += usize::from(child.wait().unwrap().code().is_none());

            let mut cache = open(&path);
            let batches = cache.len() as u32 / 2;
            assert!(batches >= saved, "{batches} batches are in the file, {saved} were saved");
            for batch in 0..batches {
                assert_eq!(known(&mut cache, &keys(2 * batch..2 * batch + 2)), logps(batch));
            }
            assert_eq!(run(&path, |_| ()), (batches..BATCHES).collect::<Vec<_>>());
            assert_eq!(fs::read(&path).unwrap(), whole);
        }
    }
}

mod sequence_keys {
    use super::*;

    const IDS: [u32; 8] = [1, 2, 3, 4, 1, 2, 4, 0];
    const LABELS: [i64; 8] = [-100, 2, 3, 4, -100, 2, 4, -100];

    /// Two sequences of four rows, with Hugging Face's labels.
    fn batch() -> HostBatch<'static> {
        HostBatch::padded(2, 4, 9, LabelAlignment::NextToken)
    }

    fn of(batch: &HostBatch<'_>, ids: &[u32], labels: &[i64]) -> Vec<SequenceKey> {
        batch.sequence_keys(ids, labels.into()).unwrap()
    }

    #[test]
    fn count_scored_tokens_as_logps_does() {
        let out = reference::logps(&batch(), &[0.5f32; 8 * 9], LABELS[..].into()).unwrap();
        let scored: Vec<u32> = of(&batch(), &IDS, &LABELS).iter().map(SequenceKey::scored).collect();
        assert_eq!(scored, [3, 2]);
        assert_eq!(scored, out.scored);
        assert_eq!(batch().scored_tokens(LABELS[..].into()).unwrap(), out.scored);
    }

    #[test]
    fn are_of_what_is_scored_and_not_of_how_that_is_said() {
        let expected = of(&batch(), &IDS, &LABELS);
        let aligned = [2i64, 3, 4, 8, 2, 4, 8, 8];
        let other_words =
            HostBatch { ignore_index: 8, ..HostBatch::padded(2, 4, 9, LabelAlignment::Aligned) };
        assert_eq!(of(&other_words, &IDS, &aligned), expected);
        let narrow = LABELS.map(|label| label as i32);
        assert_eq!(batch().sequence_keys(&IDS, narrow[..].into()).unwrap(), expected);
        let packed =
            HostBatch { sequences: Sequences::Packed { cu_seqlens: &[0, 4, 8], rows: 8 }, ..batch() };
        assert_eq!(of(&packed, &IDS, &LABELS), expected);
        // A sequence's key is its own, whichever its place and company; pairs do not matter.
        let alone = HostBatch { sequences: Sequences::Padded { count: 1, len: 4 }, ..batch() };
        assert_eq!(of(&alone, &IDS[4..], &LABELS[4..]), expected[1..]);
    }

    #[test]
    fn differ_where_a_log_prob_may() {
        let mut seen = of(&batch(), &IDS, &LABELS);
        let mut differs = |batch: HostBatch<'_>, ids: [u32; 8], labels: [i64; 8]| {
            let key = of(&batch, &ids, &labels)[0];
            assert!(!seen.contains(&key), "{batch:?} {ids:?} {labels:?}");
            seen.push(key);
        };
        let with = |at: usize, id: u32| std::array::from_fn(|i| if i == at { id } else { IDS[i] });
        let labelled =
            |at: usize, label: i64| std::array::from_fn(|i| if i == at { label } else { LABELS[i] });
        differs(batch(), with(0, 7), LABELS);
        differs(batch(), with(3, 7), LABELS);
        differs(batch(), IDS, labelled(3, 7));
        differs(batch(), IDS, labelled(3, -100));
        differs(batch(), IDS, labelled(3, 0));
        differs(HostBatch { label_alignment: LabelAlignment::Aligned, ..batch() }, IDS, LABELS);
        for transform in [
            Transform { scale: 0.5, ..Transform::default() },
            Transform { softcap: Some(30.0), ..Transform::default() },
            Transform { softcap: Some(50.0), ..Transform::default() },
            Transform { valid_vocab: Some(8), ..Transform::default() },
        ] {
            differs(HostBatch { transform, ..batch() }, IDS, LABELS);
        }
        // Two tokens in full, and three where the other sequence has as many.
        differs(HostBatch { ld_alpha: 0.5, ..batch() }, IDS, LABELS);
        differs(HostBatch { ld_alpha: 0.25, ..batch() }, IDS, LABELS);
        differs(HostBatch { ld_alpha: 0.5, ..batch() }, IDS, labelled(7, 1));
        // Fewer rows of padding, and no label in one of them.
        let short = HostBatch { sequences: Sequences::Packed { cu_seqlens: &[0, 3], rows: 3 }, ..batch() };
        let padded = of(&batch(), &with(3, 0), &labelled(3, -100))[0];
        let unpadded = of(&short, &IDS[..3], &LABELS[..3])[0];
        assert_ne!(padded, unpadded);
        assert_eq!(padded.scored(), unpadded.scored());

        let key = of(&batch(), &IDS, &LABELS)[0];
        assert_ne!(key.with("an image"), key);
        assert_ne!(key.with("an image"), key.with("another"));
        assert_eq!(key.with("an image").scored(), 3);
    }

    #[test]
    fn stay_what_they_are() {
        let (_folder, path) = place();
        let mut cache = RefCache::create(&path, of_model("a")).unwrap();
        cache.ref_logps::<Error>(&of(&batch(), &IDS, &LABELS)[..1], || Ok(vec![-1.0])).unwrap();
        cache.save().unwrap();
        let hash = fs::read(&path).unwrap()[HEADER..][..16].try_into().unwrap();
        // From another implementation of XXH3, over 4 rows of (u32 id, u8 scored, i64 label) and 5 settings in u64.
        assert_eq!(format!("{:032x}", u128::from_le_bytes(hash)), "306cbb63d958bf8d99564e641a0aa88c");
    }

    #[test]
    fn are_refused_to_what_is_no_batch() {
        let refused = |batch: HostBatch<'_>, ids: &[u32], labels: &[i64]| {
            batch.sequence_keys(ids, labels.into()).unwrap_err().to_string()
        };
        assert_eq!(refused(batch(), &IDS[1..], &LABELS), "ids: expected 8 elements ([rows]), found 7");
        assert_eq!(refused(batch(), &IDS, &LABELS[1..]), "labels: expected 8 elements ([rows]), found 7");
        let backwards =
            HostBatch { sequences: Sequences::Packed { cu_seqlens: &[0, 9, 8], rows: 8 }, ..batch() };
        assert!(refused(backwards, &IDS, &LABELS).starts_with("cu_seqlens[1]"));
        // LD-DPO's weights are those of a pair.
        let alone = HostBatch { ld_alpha: 0.5, pairs: Pairs::None, ..batch() };
        assert!(refused(alone, &IDS, &LABELS).starts_with("pairs"));
    }
}
