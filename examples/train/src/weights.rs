//! The weights of a model: drawn from a seed, in the order of their names.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use dpo_kernels::ref_cache::Fingerprint;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::model::{Config, Transformer};

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
        let tensors =
            self.tensors().map(|(name, tensor)| Ok((name, tensor.copy()?))).collect::<Result<_>>()?;
        Transformer::new(self.config, VarBuilder::from_tensors(tensors, DType::F32, self.device()))
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

    /// The variables, in the order of their names.
    pub fn vars(&self) -> Vec<Var> {
        self.vars.values().cloned().collect()
    }

    /// Number of parameters.
    pub fn count(&self) -> usize {
        self.vars.values().map(|var| var.elem_count()).sum()
    }

    /// Writes a safetensors file.
    pub fn save(&self, path: &Path) -> Result<()> {
        candle_core::safetensors::save(&self.tensors().collect::<HashMap<_, _>>(), path)
    }

    fn device(&self) -> &Device {
        self.vars.values().next().map_or(&Device::Cpu, |var| var.device())
    }

    fn tensors(&self) -> impl Iterator<Item = (String, Tensor)> {
        self.vars.iter().map(|(name, var)| (name.clone(), var.as_detached_tensor()))
    }
}
