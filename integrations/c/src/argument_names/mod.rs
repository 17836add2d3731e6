//! Every argument that an error names is a field or a parameter of the header.
//!
//! The test walks over calls that are wrong in one thing each, on the CPU and in plans for a GPU, and looks the names in
//! their errors up in the header. That the walk is complete is seen from the sources: whichever name they hand to an error
//! has been met on the way, or stands in [`UNREACHABLE`] with the reason.

mod call;
mod cases;
mod head_cases;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fs;
use std::path::Path;

use dpo_kernels::loss::PairTensors;
use dpo_kernels::memory::Unallocated;
use dpo_kernels::{LogpsTensors, PairOutputTensors, TokenMetricTensors};

use self::call::Call;
#[cfg(feature = "cuda")]
use self::cases::device_values;
use self::cases::{host_values, pointers, values};
#[cfg(feature = "cuda")]
use self::head_cases::behind_head_on_device;
use self::head_cases::{behind_head, behind_head_on_host};
use crate::calls::{Half, LmHead, Stage};
use crate::failure::header_name;
use crate::header::{
    DPO_ALIGNED, DPO_ERROR_INDEX, DPO_ERROR_MISSING, DPO_ERROR_VALUE, DPO_NEXT_TOKEN, DPO_OK,
};
use crate::names::{HeaderNames, named, without_position};

/// What of the crate no call of the header reaches.
const OTHERS: [&str; 5] = ["theory.rs", "ref_cache", "reference.rs", "pass", "cuda/products"];

/// Names that are given to errors, but not to any that C can be given.
const UNREACHABLE: [(&str, &str); 6] = [
    ("logsumexp.values", "a length, and slices of the caller's are as long as they must be"),
    ("logsumexp.residual", "likewise"),
    ("window", "passes over a part of the rows are planned in Rust alone"),
    ("products", "two contexts take a GPU"),
    ("stream", "so does a stream"),
    ("entries", "they are in a workspace, whose memory is judged"),
];

/// Functions whose first argument is the name of an argument that they may find wrong.
const JUDGES: [&str; 17] = [
    "value",
    "check_len",
    "check_matrix",
    "check_positive",
    "check_from_zero",
    "check_logits",
    "check_gradient",
    "check_takes_gamma",
    "check_is_kto",
    "within",
    "alike",
    "all",
    "missing",
    "address",
    "optional",
    "single",
    "finite",
];

/// The names that sources of the crate give to errors: literals that follow `argument:`, or the parenthesis of a judge.
fn names_in_sources(path: &Path, names: &mut BTreeSet<String>) {
    let skipped = |other: &&str| path.ends_with(other);
    if OTHERS.iter().any(skipped) || (!cfg!(feature = "cuda") && path.ends_with("cuda")) {
        return;
    }
    if path.is_dir() {
        let entries = fs::read_dir(path).expect("a folder of the crate");
        entries.for_each(|entry| names_in_sources(&entry.expect("an entry").path(), names));
        return;
    }
    let source = fs::read_to_string(path).expect("a source of the crate");
    for (quote, _) in source.match_indices('"') {
        let before = source[..quote].trim_end();
        let call = before.strip_suffix('(');
        let called = call.and_then(|call| call.rsplit(|c: char| !c.is_alphanumeric() && c != '_').next());
        if before.ends_with("argument:") || called.is_some_and(|called| JUDGES.contains(&called)) {
            names.extend(source[quote + 1..].split('"').next().map(String::from));
        }
    }
}

/// The names of what `pair_loss` reads besides log-probs.
fn pair_input_names() -> Vec<String> {
    let all = PairTensors {
        ref_logps: Some(()),
        lengths: Some(()),
        beta: Some(()),
        gamma: Some(()),
        weight: Some(()),
        label_smoothing: Some(()),
        sequence_log_weights: Some(()),
        kl_logps: Some(()),
        kl_ref_logps: Some(()),
        normalizer: Some(()),
        chosen_tokens: Some(()),
    };
    let names = RefCell::new(vec![]);
    let name = |name: &str, (): ()| {
        names.borrow_mut().push(name.to_string());
        Ok::<(), Infallible>(())
    };
    let Ok(_) = all.try_map(name, name, name);
    names.into_inner()
}

#[test]
fn errors_name_fields_and_parameters_of_the_header() {
    let header = HeaderNames::read();
    let both = || pointers().into_iter().chain(values()).chain(behind_head());
    let cases = both().chain(host_values()).chain(behind_head_on_host()).map(|case| (Half::Cpu, case));
    #[cfg(feature = "cuda")]
    let cases = {
        let of_device = device_values().into_iter().chain(behind_head_on_device());
        cases.chain(both().chain(of_device).map(|case| (Half::Cuda, case)))
    };

    let mut met = BTreeSet::new();
    for (half, (stage, argument, make_wrong)) in cases {
        let mut call = Call::new();
        make_wrong(&mut call);
        let before = call.memory.words.clone();
        let result = call.run(half, stage);
        let refused = [DPO_ERROR_VALUE, DPO_ERROR_INDEX, DPO_ERROR_MISSING].contains(&result);
        assert!(refused, "{half:?}, {stage:?}: {result} where {argument} is wrong");
        assert_eq!(named(), argument, "{half:?}, {stage:?}");
        assert!(call.memory.words == before, "{half:?}, {stage:?}: written where {argument} is wrong");

        assert!(header.has(argument), "{argument} is not in the header");
        met.insert(without_position(argument));
    }

    let mut names = BTreeSet::new();
    names_in_sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../src"), &mut names);
    assert!(names.contains("row_stride"), "{names:?}");
    let results = [
        LogpsTensors::<Unallocated<f32>>::FIELDS,
        TokenMetricTensors::<Unallocated<f32>>::FIELDS,
        PairOutputTensors::<Unallocated<f32>>::FIELDS,
    ];
    names.extend(results.into_iter().flatten().map(|field| field.name.to_string()));
    names.extend(pair_input_names());
    let unmet: Vec<_> = names
        .iter()
        .map(|name| header_name(name).unwrap_or(name))
        .filter(|name| !met.contains(name) && !UNREACHABLE.iter().any(|(other, _)| other == name))
        .collect();
    assert!(unmet.is_empty(), "errors name {unmet:?}, which no case here provokes");
}

/// `pair_loss` reads no labels: it takes the batch of the other stages, and one of sequences and pairs alone.
#[test]
fn pair_loss_does_not_look_at_the_label_alignment() {
    for alignment in [0, DPO_ALIGNED, DPO_NEXT_TOKEN] {
        let mut call = Call::new();
        call.batch.label_alignment = alignment;
        assert_eq!(call.run(Half::Cpu, Stage::PairLoss), DPO_OK, "{}", named());
        #[cfg(feature = "cuda")]
        assert_eq!(call.run(Half::Cuda, Stage::PairLoss), DPO_OK, "{}", named());
    }
}

/// What is wrong with a case is its own.
#[test]
fn a_call_is_right_until_it_is_made_wrong() {
    let of_logits = [Stage::Logps, Stage::PairLoss, Stage::Forward, Stage::Factored, Stage::Backward];
    let behind_head = [LmHead::Plan, LmHead::Logps, LmHead::Forward, LmHead::Backward].map(Stage::LmHead);
    for stage in of_logits.into_iter().chain(behind_head) {
        assert_eq!(Call::new().run(Half::Cpu, stage), DPO_OK, "{stage:?}: {}", named());
        #[cfg(feature = "cuda")]
        assert_eq!(Call::new().run(Half::Cuda, stage), DPO_OK, "{stage:?}: {}", named());
    }
}
