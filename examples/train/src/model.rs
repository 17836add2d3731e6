//! A decoder-only transformer: pre-norm blocks, causal attention, position by distance (ALiBi).

use candle_core::{D, Device, Result, Tensor};
use candle_nn::{Embedding, Linear, Module, RmsNorm, VarBuilder, embedding, linear_no_bias, rms_norm};

const NORM_EPS: f64 = 1e-5;

/// Size of a model.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Number of tokens.
    pub vocab: usize,
    /// Width of the residual stream, a multiple of `heads`.
    pub dim: usize,
    /// Attention heads per block.
    pub heads: usize,
    /// Number of blocks.
    pub layers: usize,
}

/// The model.
pub struct Transformer {
    embedding: Embedding,
    blocks: Vec<Block>,
    norm: RmsNorm,
    head: Linear,
    heads: usize,
}

impl Transformer {
    /// A model with the weights of `vb`.
    pub fn new(config: Config, vb: VarBuilder) -> Result<Self> {
        let Config { vocab, dim, heads, layers } = config;
        Ok(Transformer {
            embedding: embedding(vocab, dim, vb.pp("embedding"))?,
            blocks: (0..layers)
                .map(|layer| Block::new(dim, heads, vb.pp(format!("block.{layer}"))))
                .collect::<Result<_>>()?,
            norm: rms_norm(dim, NORM_EPS, vb.pp("norm"))?,
            head: linear_no_bias(dim, vocab, vb.pp("head"))?,
            heads,
        })
    }

    /// Logits `[S, T, V]` of tokens `[S, T]`: row t of a sequence sees its tokens 0 to t and predicts token t + 1.
    pub fn forward(&self, tokens: &Tensor) -> Result<Tensor> {
        self.head.forward(&self.hidden(tokens)?)
    }

    /// The weight `[V, dim]` that makes logits of hidden states.
    pub fn head(&self) -> &Tensor {
        self.head.weight()
    }

    /// Hidden states `[S, T, dim]`, of which the head makes logits.
    pub fn hidden(&self, tokens: &Tensor) -> Result<Tensor> {
        let bias = causal_bias(self.heads, tokens.dim(1)?, tokens.device())?;
        let mut x = self.embedding.forward(tokens)?;
        for block in &self.blocks {
            x = block.forward(&x, &bias)?;
        }
        self.norm.forward_diff(&x)
    }
}

struct Block {
    attention_norm: RmsNorm,
    attention: Attention,
    mlp_norm: RmsNorm,
    up: Linear,
    down: Linear,
}

impl Block {
    fn new(dim: usize, heads: usize, vb: VarBuilder) -> Result<Self> {
        Ok(Block {
            attention_norm: rms_norm(dim, NORM_EPS, vb.pp("attention_norm"))?,
            attention: Attention::new(dim, heads, vb.pp("attention"))?,
            mlp_norm: rms_norm(dim, NORM_EPS, vb.pp("mlp_norm"))?,
            up: linear_no_bias(dim, 4 * dim, vb.pp("up"))?,
            down: linear_no_bias(4 * dim, dim, vb.pp("down"))?,
        })
    }

    fn forward(&self, x: &Tensor, bias: &Tensor) -> Result<Tensor> {
        // `RmsNorm::forward` has no backward pass; `forward_diff` has one.
        let x = (x + self.attention.forward(&self.attention_norm.forward_diff(x)?, bias)?)?;
        let hidden = self.up.forward(&self.mlp_norm.forward_diff(&x)?)?.relu()?.sqr()?;
        &x + self.down.forward(&hidden)?
    }
}

struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    heads: usize,
}

impl Attention {
    fn new(dim: usize, heads: usize, vb: VarBuilder) -> Result<Self> {
        let linear = |name| linear_no_bias(dim, dim, vb.pp(name));
        Ok(Attention {
            query: linear("query")?,
            key: linear("key")?,
            value: linear("value")?,
            out: linear("out")?,
            heads,
        })
    }

    fn forward(&self, x: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let (sequences, len, dim) = x.dims3()?;
        let head_dim = dim / self.heads;
        let split = |projection: &Linear| {
            projection
                .forward(x)?
                .reshape((sequences, len, self.heads, head_dim))?
                .transpose(1, 2)?
                .contiguous()
        };
        let query = (split(&self.query)? / (head_dim as f64).sqrt())?;
        let scores = query.matmul(&split(&self.key)?.t()?)?.broadcast_add(bias)?;
        // The softmax, with its division put off to where there is less to divide. What it subtracts cancels, so
        // no gradient runs through it.
        let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
        let total = weights.sum_keepdim(D::Minus1)?;
        let mixed = weights.matmul(&split(&self.value)?)?.broadcast_div(&total)?;
        self.out.forward(&mixed.transpose(1, 2)?.contiguous()?.reshape((sequences, len, dim))?)
    }
}

/// `[heads, T, T]`: −∞ where key j comes after query i, and else a penalty on the distance i − j with a slope per
/// head from 2⁻² to 2⁻⁸ (ALiBi, Press et al. 2022). It needs no parameters and sets no limit on the length.
fn causal_bias(heads: usize, len: usize, device: &Device) -> Result<Tensor> {
    let mut bias = Vec::with_capacity(heads * len * len);
    for head in 1..=heads {
        let slope = (-8.0 * head as f32 / heads as f32).exp2();
        for i in 0..len {
            bias.extend((0..len).map(|j| if j <= i { -slope * (i - j) as f32 } else { f32::NEG_INFINITY }));
        }
    }
    Tensor::from_vec(bias, (heads, len, len), device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::Weights;

    const CONFIG: Config = Config { vocab: 11, dim: 8, heads: 2, layers: 2 };

    fn logits(tokens: &[u32]) -> Vec<Vec<f32>> {
        let (_, model) = Weights::seeded(CONFIG, 1, &Device::Cpu).unwrap();
        let tokens = Tensor::new(tokens, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        model.forward(&tokens).unwrap().squeeze(0).unwrap().to_vec2().unwrap()
    }

    #[test]
    fn one_row_of_logits_per_token() {
        let rows = logits(&[1, 2, 3]);
        assert_eq!(rows.len(), 3);
        assert!(rows.iter().all(|row| row.len() == CONFIG.vocab && row.iter().all(|z| z.is_finite())));
    }

    #[test]
    fn a_later_token_changes_no_earlier_row() {
        let (before, after) = (logits(&[1, 2, 3, 4, 5]), logits(&[1, 2, 3, 9, 5]));
        assert_eq!(before[..3], after[..3]);
        assert!(before[3] != after[3] && before[4] != after[4]);
    }
}
