//! AdamW with a warm-up, a cosine decay and a limit on the length of the gradient.

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var};
use candle_nn::{AdamW, Optimizer as _, ParamsAdamW};

/// Share of the steps in which the learning rate rises.
const WARM_UP: f64 = 0.1;
/// Share of the peak learning rate that is left at the end.
const FINAL: f64 = 0.1;
/// Longest gradient that a step takes as it is.
const MAX_GRADIENT_NORM: f64 = 1.0;

/// An optimiser for a known number of steps.
pub struct Optimizer {
    adamw: AdamW,
    vars: Vec<Var>,
    peak: f64,
    steps: usize,
    step: usize,
}

impl Optimizer {
    /// An optimiser of `vars` whose learning rate rises to `peak` and then falls until step `steps`.
    pub fn new(vars: Vec<Var>, peak: f64, steps: usize) -> Result<Self> {
        let params = ParamsAdamW { beta2: 0.99, ..ParamsAdamW::default() };
        Ok(Optimizer { adamw: AdamW::new(vars.clone(), params)?, vars, peak, steps, step: 0 })
    }

    /// One step down the gradient of `loss`.
    pub fn backward_step(&mut self, loss: &Tensor) -> Result<()> {
        let mut gradients = loss.backward()?;
        clip(&self.vars, &mut gradients)?;
        self.adamw.set_learning_rate(self.peak * schedule(self.step, self.steps));
        self.step += 1;
        self.adamw.step(&gradients)
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
fn clip(vars: &[Var], gradients: &mut GradStore) -> Result<()> {
    let mut squares = 0.0;
    for gradient in vars.iter().filter_map(|var| gradients.get(var)) {
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
            clip(std::slice::from_ref(&x), &mut gradients).unwrap();
            let clipped: Vec<f32> = gradients.get(&x).unwrap().to_vec1().unwrap();
            assert!(clipped.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{clipped:?}");
        }
    }
}
