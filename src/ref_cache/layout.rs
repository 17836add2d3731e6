//! The bytes of a cache's file: see [the module above](super).

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_64;

use super::fingerprint::Fingerprint;
use super::problem::Problem;

const MAGIC: [u8; 8] = *b"DPOREFLP";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 36;
const ENTRY_BYTES: usize = 24;
const CHECKSUM_BYTES: usize = 8;

/// What is known of a sequence.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    pub logp: f32,
    pub scored: u32,
}

/// By the hash of a [`SequenceKey`](super::SequenceKey).
pub type Entries = BTreeMap<u128, Entry>;

/// The file of these entries.
pub fn encode(fingerprint: Fingerprint, entries: &Entries) -> Vec<u8> {
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

/// The entries of a file. What is wrong with it is said in the order of what can be trusted: that it is a cache, of this version, whole,
/// undamaged, and then what it is of.
pub fn decode(bytes: &[u8], wanted: Fingerprint) -> std::result::Result<Entries, Problem> {
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
