//! What the stages give. Each result is declared here, once, for every memory that can hold it.
//!
//! [`LogpsTensors`], [`TokenMetricTensors`] and [`PairOutputTensors`] are generic over a [`Memory`]; [`Logps`],
//! [`TokenMetrics`] and [`PairOutputs`] are the same in vectors on the host, and [`LogpsSlices`],
//! [`TokenMetricSlices`] and [`PairOutputSlices`] in slices of the caller's.

use std::fmt;

use crate::error::{Error, Result};
use crate::memory::{
    Conversion, Extent, Field, HostMemory, Memory, Number, Record, RecordKind, Shape, SlicesMut, Vectors,
};
use crate::metrics::{MeanTokenMetrics, PairMetrics};
use crate::status::Status;

/// Declares a set of results: arrays of floats and of counts, each with its shape; records; sets within the set, and
/// those that may be left out. Everything that walks over the fields is made here.
macro_rules! results {
    (
        $(#[$doc:meta])* $name:ident
        floats { $($(#[$float_doc:meta])* $float:ident: $float_shape:ident,)* }
        counts { $($(#[$count_doc:meta])* $count:ident: $count_shape:ident,)* }
        records { $($(#[$record_doc:meta])* $record:ident: $record_type:ty,)* }
        sets { $($(#[$set_doc:meta])* $set:ident: $set_type:ident,)* }
        optional { $($(#[$optional_doc:meta])* $optional:ident: $optional_type:ident,)* }
    ) => {
        $(#[$doc])*
        pub struct $name<M: Memory> {
            $($(#[$float_doc])* pub $float: M::Floats,)*
            $($(#[$count_doc])* pub $count: M::Counts,)*
            $($(#[$record_doc])* pub $record: M::Record<$record_type>,)*
            $($(#[$set_doc])* pub $set: $set_type<M>,)*
            $($(#[$optional_doc])* pub $optional: Option<$optional_type<M>>,)*
        }

        impl<M: Memory> $name<M> {
            /// The arrays, by name and shape.
            pub const FIELDS: &'static [Field] = &[
                $(Field { name: stringify!($float), shape: Shape::$float_shape },)*
                $(Field { name: stringify!($count), shape: Shape::$count_shape },)*
            ];

            /// The same results in another memory: each field as `conversion` makes it.
            ///
            /// # Errors
            ///
            /// The first of the conversion's.
            #[allow(unused_variables)] // where a set has no field of a kind
            pub fn convert<B, C>(&self, conversion: &mut C) -> std::result::Result<$name<B>, C::Error>
            where
                B: Memory<Number = M::Number>,
                C: Conversion<M, B>,
            {
                Ok($name {
                    $($float: conversion.floats(
                        Field { name: stringify!($float), shape: Shape::$float_shape },
                        &self.$float,
                    )?,)*
                    $($count: conversion.counts(
                        Field { name: stringify!($count), shape: Shape::$count_shape },
                        &self.$count,
                    )?,)*
                    $($record: conversion.record(stringify!($record), &self.$record)?,)*
                    $($set: self.$set.convert(conversion)?,)*
                    $($optional: self.$optional.as_ref().map(|set| set.convert(conversion)).transpose()?,)*
                })
            }

            /// The slices that a pass over a batch of this extent is to write.
            ///
            /// # Errors
            ///
            /// [`Error::Length`](crate::Error::Length) that names the first slice of another length.
            pub fn slices(&mut self, extent: &Extent) -> Result<$name<SlicesMut<'_, M::Number>>>
            where
                M: HostMemory,
            {
                Ok($name {
                    $($float: {
                        let shape = Shape::$float_shape;
                        let field = Field { name: stringify!($float), shape };
                        M::floats(field, shape.len(extent), &mut self.$float)?
                    },)*
                    $($count: {
                        let shape = Shape::$count_shape;
                        let field = Field { name: stringify!($count), shape };
                        M::counts(field, shape.len(extent), &mut self.$count)?
                    },)*
                    $($record: M::record(&mut self.$record),)*
                    $($set: self.$set.slices(extent)?,)*
                    $($optional: self.$optional.as_mut().map(|set| set.slices(extent)).transpose()?,)*
                })
            }
        }

        impl<M: Memory> Default for $name<M>
        where
            M::Floats: Default,
            M::Counts: Default,
            $(M::Record<$record_type>: Default,)*
            $($set_type<M>: Default,)*
        {
            fn default() -> Self {
                $name {
                    $($float: Default::default(),)*
                    $($count: Default::default(),)*
                    $($record: Default::default(),)*
                    $($set: Default::default(),)*
                    $($optional: None,)*
                }
            }
        }

        impl<M: Memory> Clone for $name<M>
        where
            M::Floats: Clone,
            M::Counts: Clone,
            $(M::Record<$record_type>: Clone,)*
            $($set_type<M>: Clone,)*
            $($optional_type<M>: Clone,)*
        {
            fn clone(&self) -> Self {
                $name {
                    $($float: self.$float.clone(),)*
                    $($count: self.$count.clone(),)*
                    $($record: self.$record.clone(),)*
                    $($set: self.$set.clone(),)*
                    $($optional: self.$optional.clone(),)*
                }
            }
        }

        impl<M: Memory> Copy for $name<M>
        where
            M::Floats: Copy,
            M::Counts: Copy,
            $(M::Record<$record_type>: Copy,)*
            $($set_type<M>: Copy,)*
            $($optional_type<M>: Copy,)*
        {
        }

        impl<M: Memory> PartialEq for $name<M>
        where
            M::Floats: PartialEq,
            M::Counts: PartialEq,
            $(M::Record<$record_type>: PartialEq,)*
            $($set_type<M>: PartialEq,)*
            $($optional_type<M>: PartialEq,)*
        {
            fn eq(&self, other: &Self) -> bool {
                true $(&& self.$float == other.$float)*
                    $(&& self.$count == other.$count)*
                    $(&& self.$record == other.$record)*
                    $(&& self.$set == other.$set)*
                    $(&& self.$optional == other.$optional)*
            }
        }

        impl<M: Memory> fmt::Debug for $name<M>
        where
            M::Floats: fmt::Debug,
            M::Counts: fmt::Debug,
            $(M::Record<$record_type>: fmt::Debug,)*
            $($set_type<M>: fmt::Debug,)*
            $($optional_type<M>: fmt::Debug,)*
        {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name))
                    $(.field(stringify!($float), &self.$float))*
                    $(.field(stringify!($count), &self.$count))*
                    $(.field(stringify!($record), &self.$record))*
                    $(.field(stringify!($set), &self.$set))*
                    $(.field(stringify!($optional), &self.$optional))*
                    .finish()
            }
        }
    };
}

results! {
    /// What `logps` gives: log-probs of tokens and sequences.
    LogpsTensors
    floats {
        /// `[S]`: sum of the scored token log-probs of each sequence, in nats.
        logps: Sequences,
        /// `[rows]`: log-prob of the label; 0 in rows that are not scored.
        token_logps: Rows,
        /// `[rows]`: log Σ exp over the vocabulary; 0 in rows that are not scored. `backward` needs it.
        logsumexp: Rows,
        /// `[rows]`: what rounding took from `logsumexp`. At |logsumexp| = 10⁴ an f32 is off by up to 5·10⁻⁴, which
        /// would be the relative error of every gradient in the row; `backward` adds this back. 0 in the f64 reference.
        logsumexp_residual: Rows,
        /// `[rows]`: what each token counts in its sequence's sum: 1, or [`Batch::ld_alpha`](crate::Batch::ld_alpha) in
        /// the tail that the other of the pair has no match for; 0 in rows that are not scored. Where `ld_alpha` is not
        /// 1, `backward` needs it as [`Coef::tokens`](crate::Coef::tokens).
        token_weights: Rows,
    }
    counts {
        /// `[S]`: number of scored rows.
        scored: Sequences,
    }
    records {
        /// What was found in the data.
        status: Status,
    }
    sets {}
    optional {
        /// Metrics of each token, from the same read of the logits. A backend that finds `None` here does not compute
        /// them, which is free; `Some(TokenMetrics::default())` asks for all of them in vectors. The f64 reference
        /// always gives them.
        metrics: TokenMetricTensors,
    }
}

results! {
    /// What one read of a row of logits tells beside its log-prob, with p = softmax(z′) over the valid vocabulary.
    ///
    /// All are 0 in rows that are not scored. In a row with a bad label, and where the log-prob is NaN, what is not a
    /// number is NaN, and `correct` is 0. The logit of the label is token_logps + logsumexp.
    TokenMetricTensors
    floats {
        /// `[rows]`: H = −Σ p log p = logsumexp − Σ p z′, in nats.
        entropy: Rows,
        /// `[rows]`: 1 where the label is the most probable token, else 0. Of several largest logits z the first is
        /// meant.
        correct: Rows,
        /// `[rows]`: mean of z′ over the valid vocabulary.
        mean_logit: Rows,
        /// `[rows]`: Σ p².
        sum_p2: Rows,
        /// `[S]`: mean over the scored tokens of log p_y − log Σ p²: the logarithm of WPO's weight of the sequence
        /// (Zhou et al. 2024, arXiv:2406.11827), as `pair_loss` takes it. It may be above 0; WPO cuts the weight of a pair
        /// off at 1, and so does [`with_wpo_weights`](crate::PairLoss::with_wpo_weights). 0 where there is no scored
        /// token.
        sequence_log_weights: Sequences,
    }
    counts {}
    records {
        /// The means of these metrics, and of the logsumexp, over the batch.
        mean: MeanTokenMetrics<M::Number>,
    }
    sets {}
    optional {}
}

results! {
    /// What `pair_loss` makes of the sequence log-probs of a batch of pairs.
    PairOutputTensors
    floats {
        /// `[N]`: loss of each pair, before the normaliser.
        pair_losses: Pairs,
        /// `[N]`: r̂_w = β(logp_w − ref_logp_w), whatever the loss; divided by n_w where it is length-normalised.
        chosen_rewards: Pairs,
        /// `[N]`: r̂_l = β(logp_l − ref_logp_l), likewise.
        rejected_rewards: Pairs,
        /// `[N]`: u = r̂_w − r̂_l.
        margins: Pairs,
        /// `[S]`: c_s = ∂loss/∂logp_s, the coefficient that `backward` takes.
        coef: Sequences,
    }
    counts {}
    records {
        /// The loss of the batch, and the means of rewards, margins and accuracy.
        metrics: PairMetrics<M::Number>,
    }
    sets {}
    optional {}
}

results! {
    /// What `forward` gives: `logps` and `pair_loss`.
    ForwardTensors
    floats {}
    counts {}
    records {}
    sets {
        /// What `logps` gives.
        logps: LogpsTensors,
        /// What `pair_loss` gives.
        pairs: PairOutputTensors,
    }
    optional {}
}

/// [`LogpsTensors`] in vectors: a pass makes their lengths right, so that one value serves call after call without
/// allocating again. `F` is `f32`, or `f64` in the [`reference`](mod@crate::reference).
pub type Logps<F = f32> = LogpsTensors<Vectors<F>>;

/// [`TokenMetricTensors`] in vectors, as [`Logps`].
pub type TokenMetrics<F = f32> = TokenMetricTensors<Vectors<F>>;

/// [`PairOutputTensors`] in vectors, as [`Logps`].
pub type PairOutputs<F = f32> = PairOutputTensors<Vectors<F>>;

/// [`ForwardTensors`] in vectors, as [`Logps`].
pub type Forward<F = f32> = ForwardTensors<Vectors<F>>;

/// [`LogpsTensors`] in slices of the caller's: what is `None` is not wanted.
///
/// ```
/// use dpo_kernels::{HostBatch, LabelAlignment, LogpsSlices, Status, TokenMetricSlices, cpu};
///
/// let batch = HostBatch::padded(2, 1, 3, LabelAlignment::Aligned);
/// let (mut logps, mut entropy, mut status) = ([0.0f32; 2], [0.0f32; 2], Status::default());
/// let mut out = LogpsSlices {
///     logps: Some(&mut logps),
///     status: Some(&mut status),
///     // The entropy alone, which costs one multiply-add for a logit.
///     metrics: Some(TokenMetricSlices { entropy: Some(&mut entropy), ..TokenMetricSlices::default() }),
///     ..LogpsSlices::default()
/// };
/// cpu::logps(&batch, &[0.0f32; 6], [0i64, 2][..].into(), &mut out)?;
/// status.check()?;
/// assert!((logps[0] + 3f32.ln()).abs() < 1e-6 && (entropy[0] - 3f32.ln()).abs() < 1e-6);
/// # Ok::<(), dpo_kernels::Error>(())
/// ```
pub type LogpsSlices<'a, F = f32> = LogpsTensors<SlicesMut<'a, F>>;

/// [`TokenMetricTensors`] in slices of the caller's, as [`LogpsSlices`].
pub type TokenMetricSlices<'a, F = f32> = TokenMetricTensors<SlicesMut<'a, F>>;

/// [`PairOutputTensors`] in slices of the caller's, as [`LogpsSlices`].
pub type PairOutputSlices<'a, F = f32> = PairOutputTensors<SlicesMut<'a, F>>;

/// [`ForwardTensors`] in slices of the caller's, as [`LogpsSlices`].
pub type ForwardSlices<'a, F = f32> = ForwardTensors<SlicesMut<'a, F>>;

/// Which token metrics a pass computes: more of them cost more arithmetic for each logit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetricsLevel {
    /// None.
    None,
    /// The entropy of each row alone: one multiply-add for a logit.
    Entropy,
    /// All of [`TokenMetricTensors`].
    All,
}

impl MetricsLevel {
    /// Every level, for tables and tests.
    pub const EVERY: [MetricsLevel; 3] = [MetricsLevel::None, MetricsLevel::Entropy, MetricsLevel::All];

    /// The factored forward has no token metrics.
    pub(crate) fn check_factored(self) -> Result<()> {
        if self == MetricsLevel::None {
            return Ok(());
        }
        Err(Error::value("metrics", "none, in the factored forward", "some"))
    }
}

impl LogpsSlices<'_> {
    /// The least level that has all that is wanted here.
    pub(crate) fn metrics_level(&self) -> MetricsLevel {
        let wanted = |metrics: &TokenMetricSlices<'_>| metrics.level(Option::is_some, Option::is_some);
        self.metrics.as_ref().map_or(MetricsLevel::None, wanted)
    }
}

impl<M: Memory> TokenMetricTensors<M> {
    /// The least level that has all that is wanted here; `array` and `mean` say whether one of those is.
    pub(crate) fn level(
        &self,
        array: impl Fn(&M::Floats) -> bool,
        mean: impl Fn(&M::Record<MeanTokenMetrics<M::Number>>) -> bool,
    ) -> MetricsLevel {
        let others = [&self.correct, &self.mean_logit, &self.sum_p2, &self.sequence_log_weights];
        if others.into_iter().any(&array) || mean(&self.mean) {
            MetricsLevel::All
        } else if array(&self.entropy) {
            MetricsLevel::Entropy
        } else {
            MetricsLevel::None
        }
    }
}

/// `$record` is a record: of this kind, and this field of what the kernels write of a batch.
macro_rules! record {
    ($record:ty, $kind:ident, $device:ident, $field:ident $(, $number:ident)?) => {
        impl$(<$number: Number>)? Record for $record {
            const KIND: RecordKind = RecordKind::$kind;

            #[cfg(feature = "cuda")]
            type Device = crate::cuda::params::$device;

            #[cfg(feature = "cuda")]
            fn of_batch(records: &crate::cuda::params::DpoBatchMetrics) -> Self {
                records.$field.into()
            }
        }
    };
}
record!(Status, Status, DpoStatus, status);
record!(PairMetrics<F>, PairMetrics, DpoPairMetrics, pairs, F);
record!(MeanTokenMetrics<F>, MeanTokenMetrics, DpoMeanTokenMetrics, tokens, F);
