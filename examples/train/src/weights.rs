//! The weights of a model: drawn from a seed, in the order of their names.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use dpo_kernels::ref_cache::Fingerprint;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::checkpoint::Tensors;
use crate::model::{Config, Transformer};
use crate::whole_file::write_whole;

/// Trainable weights.
pub struct Weights {
    vars: BTreeMap<String, Var>,
    config: Config,
}

impl Weights {
    /// Weights drawn from `seed`, and the model that uses them.
    pub fn seeded(config: Config, seed: u64, device: &Device) -> Result<(Self, Transformer)> {
        let varmap = VarMap::new();
        let model = Transformer::new(config, VarBuilder::from_varmap(&varmap, DType::F32, device))?;
        let vars: BTreeMap<String, Var> =
            varmap.data().lock().expect("no thread holds it").clone().into_iter().collect();
        // candle's CPU generator takes no seed: draw its matrices again.
        let mut rng = StdRng::seed_from_u64(seed);
        for var in vars.values() {
            if let [_, fan_in] = *var.dims() {
                let bound = (1.0 / fan_in as f32).sqrt();
                let values: Vec<f32> =
                    (0..var.elem_count()).map(|_| rng.random_range(-bound..bound)).collect();
                var.set(&Tensor::from_vec(values, var.shape(), device)?)?;
            }
        }
        Ok((Weights { vars, config }, model))
    }

    /// A model with a copy of the weights as they are now, which training does not change.
    pub fn frozen_copy(&self) -> Result<Transformer> {
        let tensors = self
            .tensors()
            .into_iter()
            .map(|(name, tensor)| Ok((name, tensor.copy()?)))
            .collect::<Result<_>>()?;
        Ok(Transformer::new(self.config, VarBuilder::from_tensors(tensors, DType::F32, self.device()))?)
    }

    /// What log-probs depend on that the model gives with the weights as they are now.
    pub fn fingerprint(&self) -> Result<Fingerprint> {
        let mut fingerprint = Fingerprint::new("model", format!("{:?}", self.config))
            .with("device", format!("{:?}", self.device().location()));
        for (name, tensor) in self.tensors() {
            let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            fingerprint = fingerprint.with(&name, bytes);
        }
        Ok(fingerprint)
    }

    /// The variables by their names.
    pub fn vars(&self) -> &BTreeMap<String, Var> {
        &self.vars
    }

    /// Number of parameters.
    pub fn count(&self) -> usize {
        self.vars.values().map(|var| var.elem_count()).sum()
    }

    /// Takes the values of these tensors.
    pub fn set(&self, tensors: &Tensors) -> Result<()> {
        for (name, var) in &self.vars {
            let tensor = tensors.get(name).with_context(|| format!("no weights {name}"))?;
            var.set(tensor).with_context(|| format!("weights {name}"))?;
        }
        Ok(())
    }

    /// Writes a safetensors file.
    pub fn save(&self, path: &Path) -> Result<()> {
        write_whole(path, &safetensors::serialize(self.tensors(), None)?)
    }

    fn device(&self) -> &Device {
        self.vars.values().next().map_or(&Device::Cpu, |var| var.device())
    }

    /// The values as they are now, which training changes.
    pub fn tensors(&self) -> Tensors {
        self.vars.iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect()
    }
}
