//! What a run leaves in a file to go on from.
//!
//! # The file
//!
//! | offset | type | what |
//! |---|---|---|
//! | 0 | `[u8; 8]` | `DPOCKPT1` |
//! | 8 | u128, little-endian | XXH3-128 of all bytes after |
//! | 24 | safetensors | [`weights`](Checkpoint::weights) and the other tensors, each name after that of its field and a dot; as metadata, `settings` (a JSON object), `phase`, `step` and `metrics` |

use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::path::Path;
use std::{fmt, fs};

use anyhow::{Context, Result, anyhow, bail, ensure};
use candle_core::safetensors::Load;
use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use xxhash_rust::xxh3::xxh3_128;

use crate::whole_file::write_whole;

const MAGIC: [u8; 8] = *b"DPOCKPT1";

/// Tensors by their names.
pub type Tensors = BTreeMap<String, Tensor>;

/// What a run is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The supervised warm-up.
    WarmUp,
    /// Direct Preference Optimization.
    Dpo,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::WarmUp => "warm-up",
            Phase::Dpo => "DPO",
        })
    }
}

/// A run between two steps.
#[derive(Debug)]
pub struct Checkpoint {
    /// What the figures of the run follow from, by name.
    pub settings: BTreeMap<String, String>,
    /// What it was doing.
    pub phase: Phase,
    /// Number of steps of this phase that are done. They and the seed say where in the data it is.
    pub step: usize,
    /// The lines of metrics.csv.
    pub metrics: String,
    /// The policy's.
    pub weights: Tensors,
    /// The optimiser's means of the gradients, by the names of the weights.
    pub first_moments: Tensors,
    /// Those of their squares.
    pub second_moments: Tensors,
    /// Log-probs of the `train` and `held_out` pairs under the reference, `[N, 2]` with chosen first; empty in the warm-up.
    pub ref_logps: Tensors,
}

impl Checkpoint {
    /// Puts the checkpoint in the place of what is at `path`, at once.
    pub fn save(&self, path: &Path) -> Result<()> {
        let sections = [
            ("weights", &self.weights),
            ("first_moments", &self.first_moments),
            ("second_moments", &self.second_moments),
            ("ref_logps", &self.ref_logps),
        ];
        let tensors = sections.into_iter().flat_map(|(section, tensors)| {
            tensors.iter().map(move |(name, tensor)| (format!("{section}.{name}"), tensor))
        });
        let metadata = [
            ("settings", serde_json::to_string(&self.settings)?),
            ("phase", self.phase.to_string()),
            ("step", self.step.to_string()),
            ("metrics", self.metrics.clone()),
        ];
        let metadata = metadata.into_iter().map(|(key, value)| (key.to_string(), value)).collect();
        let content = safetensors::serialize(tensors, Some(metadata))?;
        let bytes = [&MAGIC[..], &xxh3_128(&content).to_le_bytes(), &content].concat();
        write_whole(path, &bytes)
    }

    /// The checkpoint at `path`, if there is one. One that is damaged is refused.
    pub fn open(path: &Path, device: &Device) -> Result<Option<Self>> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        Ok(Some(Checkpoint::decode(&bytes, device).with_context(|| path.display().to_string())?))
    }

    fn decode(bytes: &[u8], device: &Device) -> Result<Self> {
        let content = bytes.strip_prefix(&MAGIC).context(
            "expected a file that begins with \"DPOCKPT1\", found another: no checkpoint of this version",
        )?;
        let (checksum, content) =
            content.split_first_chunk().context("damaged: it ends before its checksum")?;
        ensure!(
            xxh3_128(content) == u128::from_le_bytes(*checksum),
            "damaged: its checksum is not that of its content; delete it to start at the beginning"
        );

        let (_, header) = SafeTensors::read_metadata(content)?;
        let metadata: &HashMap<String, String> = header.metadata().as_ref().context("it has no metadata")?;
        let entry = |key: &str| metadata.get(key).ok_or_else(|| anyhow!("{key:?} is missing in it"));
        let phase = match entry("phase")?.as_str() {
            phase if phase == Phase::WarmUp.to_string() => Phase::WarmUp,
            phase if phase == Phase::Dpo.to_string() => Phase::Dpo,
            other => bail!("\"phase\": {other:?} is none"),
        };
        let mut checkpoint = Checkpoint {
            settings: serde_json::from_str(entry("settings")?).context("\"settings\"")?,
            phase,
            step: entry("step")?.parse().context("\"step\"")?,
            metrics: entry("metrics")?.clone(),
            weights: Tensors::new(),
            first_moments: Tensors::new(),
            second_moments: Tensors::new(),
            ref_logps: Tensors::new(),
        };
        for (name, view) in SafeTensors::deserialize(content)?.iter() {
            let (section, rest) = name.split_once('.').unwrap_or((name, ""));
            let tensors = match section {
                "weights" => &mut checkpoint.weights,
                "first_moments" => &mut checkpoint.first_moments,
                "second_moments" => &mut checkpoint.second_moments,
                "ref_logps" => &mut checkpoint.ref_logps,
                _ => bail!("tensor {name:?} has no place in a checkpoint"),
            };
            tensors.insert(rest.to_string(), view.load(device)?);
        }
        Ok(checkpoint)
    }

    /// Refuses the checkpoint of a run with other settings than these.
    pub fn check(&self, settings: &BTreeMap<String, String>) -> Result<()> {
        for (name, here) in settings {
            match self.settings.get(name) {
                Some(there) if there == here => (),
                there => bail!(
                    "the checkpoint is of another run: {name} was {}, and is {here}",
                    there.map_or("not said", |there| there)
                ),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint() -> Checkpoint {
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        let of = |name: &str, values: &[f32]| Tensors::from([(name.to_string(), tensor(values))]);
        Checkpoint {
            settings: BTreeMap::from([("--lr".to_string(), "0.001".to_string())]),
            phase: Phase::Dpo,
            step: 7,
            metrics: "a,b\n1,NaN\n".to_string(),
            weights: of("block.0.up.weight", &[1.0, -0.0, 1e-45]),
            first_moments: of("block.0.up.weight", &[2.0, 0.5, 3.0]),
            second_moments: of("block.0.up.weight", &[4.0, 0.25, 9.0]),
            ref_logps: of("train", &[-1.5, f32::MIN]),
        }
    }

    fn saved(checkpoint: &Checkpoint) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.checkpoint");
        checkpoint.save(&path).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        fs::read(path).unwrap()
    }

    fn bits(tensors: &Tensors) -> Vec<(String, Vec<u32>)> {
        let bits = |tensor: &Tensor| {
            tensor.to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        tensors.iter().map(|(name, tensor)| (name.clone(), bits(tensor))).collect()
    }

    #[test]
    fn every_bit_comes_back() {
        let (wrote, read) = (checkpoint(), Checkpoint::decode(&saved(&checkpoint()), &Device::Cpu).unwrap());
        assert_eq!((&read.settings, read.phase, read.step), (&wrote.settings, wrote.phase, wrote.step));
        assert_eq!(read.metrics, wrote.metrics);
        for (read, wrote) in [
            (&read.weights, &wrote.weights),
            (&read.first_moments, &wrote.first_moments),
            (&read.second_moments, &wrote.second_moments),
            (&read.ref_logps, &wrote.ref_logps),
        ] {
            assert_eq!(bits(read), bits(wrote));
        }
    }

    #[test]
    fn a_damaged_checkpoint_is_refused() {
        let bytes = saved(&checkpoint());
        let refusal = |bytes: &[u8]| format!("{:#}", Checkpoint::decode(bytes, &Device::Cpu).unwrap_err());
        for bit in 0..8 * bytes.len() {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let expected = if bit < 8 * MAGIC.len() { "found another" } else { "damaged: its checksum" };
            let error = refusal(&damaged);
            assert!(error.contains(expected), "bit {bit}: {error}");
        }
        for len in 0..bytes.len() {
            let expected = match len {
                0..8 => "found another",
                8..24 => "it ends before its checksum",
                _ => "damaged: its checksum",
            };
            let error = refusal(&bytes[..len]);
            assert!(error.contains(expected), "{len} bytes: {error}");
        }
        assert!(refusal(&[&bytes[..], &[0]].concat()).contains("damaged: its checksum"));
    }

    #[test]
    fn a_foreign_checkpoint_is_refused_by_what_differs() {
        let settings = |lr: &str| BTreeMap::from([("--lr".to_string(), lr.to_string())]);
        checkpoint().check(&settings("0.001")).unwrap();
        let error = checkpoint().check(&settings("0.002")).unwrap_err().to_string();
        assert_eq!(error, "the checkpoint is of another run: --lr was 0.001, and is 0.002");
        let more = BTreeMap::from([("--beta".to_string(), "0.1".to_string())]);
        let error = checkpoint().check(&more).unwrap_err().to_string();
        assert_eq!(error, "the checkpoint is of another run: --beta was not said, and is 0.1");
    }
}
