//! What a model does to its logits before the softmax, done inside the pass.

use crate::error::{Error, Result};

/// From the logits z that a batch holds to the logits z′ that the softmax sees. The default is no change.
///
/// ```text
/// z′     = s·z                                       without a soft cap
/// z′     = C·tanh(s·z / C)                           with one: the scale comes first
/// ∂z′/∂z = s·(1 − (z′/C)²) = s / cosh²(s·z / C)      s without a soft cap
/// ```
///
/// Everything after it is in terms of z′: log-probs, logsumexp and token metrics; `backward` multiplies by ∂z′/∂z, so
/// the gradient is that by z. Neither costs a pass of its own. A temperature T is a scale of 1/T. One that is applied
/// *after* a soft cap C is a scale of 1/T and a soft cap of C/T, since C/T·tanh((z/T)/(C/T)) = C·tanh(z/C)/T.
///
/// A soft cap bounds what it is given, −∞ included: a token that is masked by −∞ has z′ = −C and a probability above
/// 0, as it has in the model. With a soft cap, f32 backends compute z′ to within C·2⁻²¹.
///
/// ```
/// use dpo_kernels::Transform;
///
/// let gemma = Transform { softcap: Some(30.0), ..Transform::default() };
/// assert!((gemma.apply(1e3) - 30.0).abs() < 1e-9);
/// assert_eq!(gemma.slope(0.0), 1.0);
/// assert_eq!(Transform::default().apply(-2.5), -2.5);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Transform {
    /// s, finite and above 0: 1/temperature, or a model's logit scale.
    pub scale: f32,
    /// C, finite and above 0, in logits: Gemma's `final_logit_softcapping`.
    pub softcap: Option<f32>,
    /// Columns from here on are padding of the vocabulary: they take no part in the softmax and are not read, their
    /// gradient is exactly 0, and a label there is a bad one. From 1 to the vocabulary size; `None` is all of it.
    pub valid_vocab: Option<usize>,
}

impl Default for Transform {
    fn default() -> Self {
        Transform { scale: 1.0, softcap: None, valid_vocab: None }
    }
}

impl Transform {
    /// z′ of z.
    pub fn apply(&self, z: f64) -> f64 {
        let scaled = f64::from(self.scale) * z;
        match self.softcap.map(f64::from) {
            Some(cap) => cap * (scaled / cap).tanh(),
            None => scaled,
        }
    }

    /// ∂z′/∂z at z, in the form that loses nothing near the cap.
    pub fn slope(&self, z: f64) -> f64 {
        let scale = f64::from(self.scale);
        let cosh = self.softcap.map_or(1.0, |cap| (scale * z / f64::from(cap)).cosh());
        scale / (cosh * cosh)
    }

    /// Columns of a vocabulary of `vocab` that take part in the softmax.
    pub(crate) fn columns(&self, vocab: usize) -> usize {
        self.valid_vocab.unwrap_or(vocab)
    }

    pub(crate) fn validate(&self, vocab: usize) -> Result<()> {
        Error::check_positive("transform.scale", self.scale.into())?;
        if let Some(cap) = self.softcap {
            Error::check_positive("transform.softcap", cap.into())?;
        }
        match self.valid_vocab {
            Some(found) if !(1..=vocab).contains(&found) => {
                let expected = format!("between 1 and vocab = {vocab}");
                Err(Error::value("transform.valid_vocab", expected, found))
            }
            _ => Ok(()),
        }
    }
}
