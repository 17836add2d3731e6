//! The inputs of the golden vectors, on every executor, judged by the reference. (tests/golden.rs judges the reference
//! by the vectors.)

use std::path::Path;

use dpo_kernels::{LabelAlignment, LabelType, Logit};

use crate::case::{Case, Mask, OwnedLabels, Spec, Tensors};
use crate::executor::Executor;
use crate::expected::Expected;
use crate::vectors::{self, Element, Golden};

/// `DPO_VECTORS` says where the vectors are on a machine that has no checkout.
pub fn inputs<T: Logit + Element + Into<f64>>(executor: &mut impl Executor) {
    let here = || concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden").into();
    let golden = Golden::open(Path::new(&std::env::var_os("DPO_VECTORS").unwrap_or_else(here)));
    let mut ran = 0;
    let wanted =
        |vector: &&vectors::Case| vector.dtype == T::DTYPE.name() && vector.vocab <= crate::largest_vocab();
    for vector in golden.cases.iter().filter(wanted) {
        let case = case::<T>(&golden, vector);
        Expected::of(&case).check(
            &format!("{} ({})", executor.name(), vector.name),
            &case,
            &executor.run(&case),
        );
        ran += 1;
    }
    assert!(ran > 0, "no vectors for {}", T::DTYPE.name());
}

/// The vector's batch under its loss; WPO's weights are left out.
fn case<T: Logit + Element>(golden: &Golden, vector: &vectors::Case) -> Case<T> {
    let tensors = golden.tensors(vector);
    let unshifted = vector.layout == "unshifted";
    let (sequences, len) = (2 * vector.pairs, vector.len + usize::from(unshifted));
    let spec = Spec {
        sequences,
        longest: len,
        alignment: if unshifted { LabelAlignment::NextToken } else { LabelAlignment::Aligned },
        label_type: LabelType::I32,
        mask: Mask::Holes,
        loss: vector.pair_loss(),
        ld_alpha: vector.ld_alpha.map_or(1.0, |alpha| alpha as f32),
        scale: f32::NAN, // the logits are given
        ..Spec::plain(vector.vocab)
    };
    let ref_logps: Vec<f64> = tensors.required("ref_logps");
    Case {
        spec,
        logits: vector.logits(&tensors),
        labels: OwnedLabels::I32(tensors.required(if unshifted { "labels" } else { "targets" })),
        cu_seqlens: (0..=sequences).map(|s| (s * len) as i32).collect(),
        chosen: vec![],
        rejected: vec![],
        desirable: vec![],
        ref_logps: Some(ref_logps.into_iter().map(|logp| logp as f32).collect()),
        tensors: Tensors {
            lengths: tensors.get::<i32>("completion_len").map(|ns| ns.iter().map(|&n| n as u32).collect()),
            ..Tensors::default()
        },
        token_coef: None,
        entropy_coef: None,
        own_coef: None,
    }
}
