//! AdamW with a warm-up, a cosine decay and a limit on the length of the gradient.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};

use crate::checkpoint::Tensors;

/// Share of the steps in which the learning rate rises.
const WARM_UP: f64 = 0.1;
/// Share of the peak learning rate that is left at the end.
const FINAL: f64 = 0.1;
/// Longest gradient that a step takes as it is.
const MAX_GRADIENT_NORM: f64 = 1.0;
/// What of the mean of the gradients is left at each step.
const BETA1: f64 = 0.9;
/// The same of the mean of their squares.
const BETA2: f64 = 0.99;
const EPS: f64 = 1e-8;
const WEIGHT_DECAY: f64 = 0.01;

/// An optimiser for a known number of steps. candle's has no way to its moments, which a checkpoint needs.
pub struct Optimizer {
    parameters: BTreeMap<String, Parameter>,
    peak: f64,
    steps: usize,
    step: usize,
}

/// A variable, the decaying mean of its gradients, and that of their squares.
struct Parameter {
    var: Var,
    first_moment: Tensor,
    second_moment: Tensor,
}

impl Optimizer {
    /// An optimiser of `vars` whose learning rate rises to `peak` and then falls until step `steps`.
    pub fn new(vars: &BTreeMap<String, Var>, peak: f64, steps: usize) -> Result<Self> {
        let parameter = |var: &Var| -> Result<Parameter> {
            let zeros = var.zeros_like()?;
            Ok(Parameter { var: var.clone(), first_moment: zeros.clone(), second_moment: zeros })
        };
        let parameters =
            vars.iter().map(|(name, var)| Ok((name.clone(), parameter(var)?))).collect::<Result<_>>()?;
        Ok(Optimizer { parameters, peak, steps, step: 0 })
    }

    /// First and second moments, by the names of their variables.
    pub fn moments(&self) -> (Tensors, Tensors) {
        let of = |moment: fn(&Parameter) -> &Tensor| {
            self.parameters
                .iter()
                .map(|(name, parameter)| (name.clone(), moment(parameter).clone()))
                .collect()
        };
        (of(|parameter| &parameter.first_moment), of(|parameter| &parameter.second_moment))
    }

    /// Goes on after `step` steps that have left these moments.
    pub fn resume(&mut self, step: usize, first: &Tensors, second: &Tensors) -> Result<()> {
        for (name, parameter) in &mut self.parameters {
            let find = |moments: &Tensors| {
                let moment = moments.get(name).with_context(|| format!("no moment of {name}"))?;
                ensure!(
                    moment.dims() == parameter.var.dims(),
                    "moment of {name}: expected {:?} numbers, found {:?}",
                    parameter.var.dims(),
                    moment.dims()
                );
                Ok(moment.clone())
            };
            (parameter.first_moment, parameter.second_moment) = (find(first)?, find(second)?);
        }
        self.step = step;
        Ok(())
    }

    /// One step down the gradient of `loss`.
    pub fn backward_step(&mut self, loss: &Tensor) -> Result<()> {
        let mut gradients = loss.backward()?;
        clip(self.parameters.values().map(|parameter| &parameter.var), &mut gradients)?;
        let learning_rate = self.peak * schedule(self.step, self.steps);
        self.step += 1;
        for parameter in self.parameters.values_mut() {
            if let Some(gradient) = gradients.get(&parameter.var) {
                parameter.step(gradient, learning_rate, self.step)?;
            }
        }
        Ok(())
    }
}

impl Parameter {
    /// Step `step`, from 1, of AdamW (Loshchilov and Hutter 2019).
    fn step(&mut self, gradient: &Tensor, learning_rate: f64, step: usize) -> Result<()> {
        // Else the moments would hold on to the operations of every step.
        let gradient = &gradient.detach();
        self.first_moment = ((&self.first_moment * BETA1)? + (gradient * (1.0 - BETA1))?)?;
        self.second_moment = ((&self.second_moment * BETA2)? + (gradient.sqr()? * (1.0 - BETA2))?)?;
        // Both began at 0, which their means over the first steps are not to show.
        let mean = (&self.first_moment * (1.0 / (1.0 - BETA1.powi(step as i32))))?;
        let mean_square = (&self.second_moment * (1.0 / (1.0 - BETA2.powi(step as i32))))?;
        let direction = (mean / (mean_square.sqrt()? + EPS)?)?;
        let decayed = (self.var.as_detached_tensor() * (1.0 - learning_rate * WEIGHT_DECAY))?;
        Ok(self.var.set(&(decayed - (direction * learning_rate)?)?)?)
    }
}

/// Share of the peak learning rate that step `step` of `steps` gets.
fn schedule(step: usize, steps: usize) -> f64 {
    let warm_up = (WARM_UP * steps as f64).ceil();
    let done = (step + 1) as f64;
    if done <= warm_up {
        return done / warm_up;
    }
    let progress = (done - warm_up) / (steps as f64 - warm_up);
    FINAL + (1.0 - FINAL) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
}

/// Scales the gradients of `vars`, taken as one vector, to the greatest length allowed.
fn clip<'a>(vars: impl Iterator<Item = &'a Var> + Clone, gradients: &mut GradStore) -> Result<()> {
    let mut squares = 0.0;
    for gradient in vars.clone().filter_map(|var| gradients.get(var)) {
        squares += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
    }
    let scale = MAX_GRADIENT_NORM / squares.sqrt();
    if scale < 1.0 {
        for var in vars {
            if let Some(gradient) = gradients.remove(var) {
                gradients.insert(var, (gradient * scale)?);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn the_learning_rate_rises_and_falls() {
        let rates: Vec<f64> = (0..100).map(|step| schedule(step, 100)).collect();
        assert_eq!(rates[9], 1.0);
        assert!(rates[..10].is_sorted());
        assert!(rates[9..].is_sorted_by(|a, b| a > b));
        assert!((rates[99] - FINAL).abs() < 1e-12);
        assert_eq!(schedule(0, 1), 1.0);
    }

    #[test]
    fn a_long_gradient_is_shortened_and_a_short_one_left() {
        for (slope, expected) in [([3.0f32, 4.0], [0.6f32, 0.8]), ([0.3, 0.4], [0.3, 0.4])] {
            let x = Var::zeros(2, candle_core::DType::F32, &Device::Cpu).unwrap();
            let loss = (x.as_tensor() * Tensor::new(&slope, &Device::Cpu).unwrap()).unwrap();
            let mut gradients = loss.sum_all().unwrap().backward().unwrap();
            clip(std::iter::once(&x), &mut gradients).unwrap();
            let clipped: Vec<f32> = gradients.get(&x).unwrap().to_vec1().unwrap();
            assert!(clipped.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{clipped:?}");
        }
    }
}
