//! Reader of the golden vectors; tests/golden/README.md has the format.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use dpo_kernels::loss::Divergence;
use dpo_kernels::{Logit, PairLoss};
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};
use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// One entry of the manifest.
#[derive(Debug, Clone, Deserialize)]
pub struct Case {
    pub name: String,
    pub group: String,
    pub layout: String,
    pub dtype: String,
    pub pairs: usize,
    pub len: usize,
    pub vocab: usize,
    pub loss_type: Vec<String>,
    pub loss_weights: Vec<f64>,
    pub beta: f64,
    pub label_smoothing: f64,
    pub discopop_tau: f64,
    pub f_alpha_divergence_coef: f64,
    pub f_divergence_type: String,
    pub ld_alpha: Option<f64>,
    pub use_weighting: bool,
    #[serde(rename = "ref")]
    pub reference: String,
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    logits: LogitsSource,
    ref_logits_gen: Option<Generator>,
    file: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum LogitsSource {
    Generated(Generator),
    /// The string `stored`: they are in the case's file.
    Stored(String),
}

#[derive(Debug, Clone, Deserialize)]
struct Generator {
    kind: String,
    bits: u32,
    seed: String,
    scale_log2: i32,
    checksum: String,
}

/// A number in decimal text, which JSON cannot write as a number where it is not finite.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

/// A folder of vectors.
pub struct Golden {
    folder: PathBuf,
    pub cases: Vec<Case>,
}

impl Golden {
    pub fn open(folder: &Path) -> Self {
        #[derive(Deserialize)]
        struct Manifest {
            cases: Vec<Case>,
        }
        let path = folder.join("manifest.json");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let Manifest { cases } =
            serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Golden { folder: folder.to_path_buf(), cases }
    }

    pub fn tensors(&self, case: &Case) -> Tensors {
        let path = self.folder.join(&case.file);
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let file = SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let tensors = file.tensors().into_iter();
        Tensors(tensors.map(|(name, view)| (name, (view.dtype(), view.data().to_vec()))).collect())
    }
}

/// The tensors of one case, by name.
pub struct Tensors(HashMap<String, (Dtype, Vec<u8>)>);

impl Tensors {
    /// A tensor of elements `E`, or `None` if the case has none of this name.
    pub fn get<E: Element>(&self, name: &str) -> Option<Vec<E>> {
        let (dtype, bytes) = self.0.get(name)?;
        assert_eq!(*dtype, E::TYPE, "tensor {name}");
        Some(bytes.chunks_exact(size_of::<E>()).map(E::from_le).collect())
    }

    /// A tensor that every case has.
    pub fn required<E: Element>(&self, name: &str) -> Vec<E> {
        self.get(name).unwrap_or_else(|| panic!("no tensor {name}"))
    }
}

/// An element of a stored tensor.
pub trait Element: Copy {
    const TYPE: Dtype;
    fn from_le(bytes: &[u8]) -> Self;
    /// The storage pattern as an unsigned integer.
    fn pattern(self) -> u64;
}

macro_rules! element {
    ($($rust:ty => $dtype:ident),*) => {$(
        impl Element for $rust {
            const TYPE: Dtype = Dtype::$dtype;
            fn from_le(bytes: &[u8]) -> Self {
                <$rust>::from_le_bytes(bytes.try_into().unwrap())
            }
            fn pattern(self) -> u64 {
                let mut pattern = [0; 8];
                pattern[..size_of::<$rust>()].copy_from_slice(&self.to_le_bytes());
                u64::from_le_bytes(pattern)
            }
        }
    )*};
}
element!(u8 => U8, i32 => I32, f16 => F16, bf16 => BF16, f32 => F32, f64 => F64);

impl Case {
    /// The loss; WPO's weights are not part of it.
    pub fn pair_loss(&self) -> PairLoss {
        let (beta, epsilon) = (self.beta, self.label_smoothing);
        let term = |name: &str| match name {
            // TRL 1.16 has dropped the label smoothing of its sigmoid loss; the vectors with it are a group of their own.
            "sigmoid" if self.group == "cdpo" => {
                PairLoss::sigmoid(beta).unwrap().with_label_smoothing(epsilon)
            }
            "aot" => PairLoss::aot(beta).unwrap().with_label_smoothing(epsilon),
            "aot_unpaired" => PairLoss::aot_unpaired(beta).unwrap().with_label_smoothing(epsilon),
            "exo_pair" => PairLoss::exo_pair(beta, epsilon),
            "robust" => PairLoss::robust(beta, epsilon),
            "discopop" => PairLoss::discopop(beta, self.discopop_tau),
            name => PairLoss::named(name, beta),
        };
        let mut terms = self.loss_type.iter().map(|name| term(name).unwrap()).zip(&self.loss_weights);
        let (first, &weight) = terms.next().expect("a loss");
        let first = first.weighted(weight).unwrap();
        let loss = terms.fold(first, |sum, (term, &weight)| sum.and(term, weight).unwrap());
        loss.with_divergence(match self.f_divergence_type.as_str() {
            "reverse_kl" => Divergence::ReverseKl,
            "forward_kl" => Divergence::ForwardKl,
            "js_divergence" => Divergence::JensenShannon,
            "alpha_divergence" => Divergence::Alpha(self.f_alpha_divergence_coef),
            other => panic!("{}: divergence {other}", self.name),
        })
        .unwrap()
    }

    /// The logits: stored in the file, or generated.
    pub fn logits<T: Element + Logit>(&self, tensors: &Tensors) -> Vec<T> {
        match &self.logits {
            LogitsSource::Stored(_) => tensors.required("logits"),
            LogitsSource::Generated(generator) => self.generate(generator),
        }
    }

    /// The reference model's logits, where the case has them.
    pub fn ref_logits<T: Element + Logit>(&self, tensors: &Tensors) -> Option<Vec<T>> {
        tensors.get("ref_logits").or_else(|| Some(self.generate(self.ref_logits_gen.as_ref()?)))
    }

    fn generate<T: Element + Logit>(&self, generator: &Generator) -> Vec<T> {
        assert_eq!(generator.kind, "splitmix_v1");
        let count = (2 * self.pairs * self.len * self.vocab) as u64;
        let seed = hex(&generator.seed);
        let bits = generator.bits;
        let unit = 2f32.powi(4 - bits as i32 + generator.scale_log2);
        let logits: Vec<T> = (0..count)
            .map(|i| {
                let k = (splitmix(seed, i) >> (64 - bits)) as i64 - (1 << (bits - 1));
                T::from_f32(k as f32 * unit)
            })
            .collect();
        let checksum = (0..count)
            .zip(&logits)
            .fold(0u64, |sum, (i, logit)| sum.wrapping_add(logit.pattern().wrapping_mul(2 * i + 1)));
        assert_eq!(checksum, hex(&generator.checksum), "checksum of the generated logits of {}", self.name);
        logits
    }
}

/// Output `i` of the splitmix generator.
pub fn splitmix(seed: u64, i: u64) -> u64 {
    let z = seed.wrapping_add((i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn hex(text: &str) -> u64 {
    let digits = text.strip_prefix("0x").unwrap_or_else(|| panic!("{text}: not a 0x number"));
    u64::from_str_radix(digits, 16).unwrap_or_else(|e| panic!("{text}: {e}"))
}
