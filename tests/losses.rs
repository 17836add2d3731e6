//! The table of losses against what is written of it elsewhere: the kernels' numbers in params.h, and the README.

use std::collections::BTreeMap;
use std::path::Path;

use dpo_kernels::PairLoss;
use dpo_kernels::loss::{ALL, Kind, LossInfo, MAX_PARAMETERS};

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn usual(info: &LossInfo) -> PairLoss {
    info.make(info.beta, &[]).unwrap_or_else(|error| panic!("{}: {error}", info.name))
}

/// Every kind of loss that a loss of the table has in its sum.
fn kinds() -> Vec<&'static Kind> {
    let mut kinds: Vec<&Kind> = Vec::new();
    for loss in ALL.iter().map(usual) {
        for term in loss.terms() {
            if !kinds.contains(&term.kind) {
                kinds.push(term.kind);
            }
        }
    }
    kinds
}

#[test]
fn every_loss_says_what_it_is() {
    for (i, info) in ALL.iter().enumerate() {
        let name = info.name;
        let known_before = |name| ALL[..i].iter().flat_map(LossInfo::names).any(|known| known == name);
        assert!(!info.names().any(known_before), "{name} twice");
        assert!(!info.formula.is_empty() && !info.source.is_empty() && !info.needs.is_empty(), "{name}");
        assert!(info.parameters.len() <= MAX_PARAMETERS, "{name}");
        let loss = usual(info);
        let has = |property: fn(&Kind) -> bool| loss.terms().iter().any(|term| property(term.kind));
        let words: Vec<&str> = info.needs.split([',', ';']).map(str::trim).collect();
        assert_eq!(words.contains(&"reference"), loss.needs_reference(), "{name} needs {}", info.needs);
        let divides = loss.length_normalized() || has(Kind::needs_lengths);
        assert_eq!(words.contains(&"lengths"), divides, "{name} needs {}", info.needs);
        assert_eq!(words.contains(&"scored"), has(Kind::counts_chosen_tokens), "{name} needs {}", info.needs);
        assert_eq!(words.contains(&"many pairs"), has(Kind::couples_pairs), "{name} needs {}", info.needs);
        assert_eq!(info.needs.contains("z₀"), has(Kind::needs_baseline), "{name} needs {}", info.needs);
    }
}

#[test]
fn every_kind_is_in_the_table_by_its_name() {
    for kind in kinds() {
        let loss = usual(LossInfo::named(kind.name()).unwrap());
        assert!(loss.terms().len() == 1 && loss.terms()[0].kind == kind, "{kind:?}");
    }
}

#[test]
fn every_loss_is_known_by_all_its_names() {
    for info in &ALL {
        for name in info.names() {
            assert_eq!(LossInfo::named(name).unwrap().name, info.name, "{name}");
        }
    }
    assert_eq!(PairLoss::named("dpo", 0.1), PairLoss::sigmoid(0.1));
}

/// `enum DpoLossKind` of params.h, by the names of the table.
fn numbers() -> BTreeMap<String, u32> {
    let header = read("kernels/params.h");
    let (_, kinds) = header.split_once("enum DpoLossKind {").expect("the losses");
    let (kinds, _) = kinds.split_once('}').expect("the end of the losses");
    let mut numbers = BTreeMap::new();
    for line in kinds.lines() {
        let Some((name, number)) = line.trim().split_once(" = ") else { continue };
        let name = name.strip_prefix("DPO_LOSS_").expect("the name of a loss").to_lowercase();
        let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
        numbers.insert(name, digits.parse().expect("a number"));
    }
    numbers
}

#[test]
fn kernels_have_the_same_losses() {
    let names: Vec<String> = numbers().into_keys().collect();
    let mut of_table: Vec<&str> = kinds().iter().map(|kind| kind.name()).collect();
    of_table.sort();
    assert_eq!(names, of_table, "kernels/params.h and the table of losses");
    let mut ids: Vec<u32> = numbers().into_values().collect();
    ids.sort();
    assert!(ids.is_sorted_by(|one, other| one < other), "{ids:?}");
}

#[cfg(feature = "cuda")]
mod lowered {
    use dpo_kernels::Pairs;
    use dpo_kernels::cuda::plan::{
        self, Arguments, DeviceArray, DevicePairInputs, PairLossArguments, PairOutputBuffers, Plan,
    };
    use dpo_kernels::loss::PairTensors;

    use super::*;

    fn plan(loss: &PairLoss, inputs: DevicePairInputs) -> dpo_kernels::Result<Plan> {
        let out = PairOutputBuffers {
            pair_losses: Some(0x100),
            chosen_rewards: Some(0x200),
            rejected_rewards: Some(0x300),
            margins: Some(0x400),
            coef: Some(0x500),
            metrics: Some(0x600),
        };
        let arguments = PairLossArguments { loss, inputs, out: &out };
        plan::pair_loss(&Pairs::Concatenated, 4, 0x700, Some(0x800), &arguments, 0x900)
    }

    /// A loss reaches the kernels as the number that params.h gives it, with its parameters.
    #[test]
    fn losses_are_lowered_to_the_kernels_numbers() {
        let some = Some(DeviceArray { address: 0x100, len: 4 });
        for info in &ALL {
            let loss = usual(info);
            let ref_logps = some.filter(|_| loss.needs_reference());
            let kl_logps = some.filter(|_| loss.estimates_baseline());
            let inputs =
                DevicePairInputs { ref_logps, kl_logps, kl_ref_logps: kl_logps, ..PairTensors::NONE };
            let plan = plan(&loss, inputs).unwrap();
            let Arguments::PairLoss(params) = plan.launches().next().unwrap().arguments else {
                panic!("{plan:?}")
            };
            assert_eq!(params.loss.term_count as usize, loss.terms().len());
            for (lowered, term) in params.loss.terms.iter().zip(loss.terms()) {
                assert_eq!(lowered.kind, numbers()[term.kind.name()], "{:?}", term.kind);
                assert_eq!(lowered.weight, term.weight as f32);
                assert_eq!(lowered.beta, term.beta as f32);
                assert_eq!(lowered.label_smoothing, term.label_smoothing as f32);
                assert_eq!(lowered.length_normalized != 0, term.length_normalized);
                assert_eq!(lowered.parameters, term.parameters.map(|parameter| parameter as f32));
            }
        }
    }

    /// What f64 holds and f32 does not is refused: a τ that becomes 0 or infinite, an ε that becomes one half.
    #[test]
    fn parameters_that_f32_cannot_hold_are_refused() {
        for (loss, argument) in [
            (PairLoss::discopop(0.1, 1e-60), "tau"),
            (PairLoss::discopop(0.1, 1e60), "tau"),
            (PairLoss::robust(0.1, 0.5 - 1e-12), "label_smoothing"),
            (PairLoss::exo_pair(0.1, 1e-60), "label_smoothing"),
        ] {
            let loss = loss.unwrap().without_reference();
            let error = plan(&loss, DevicePairInputs::NONE).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("{argument}: expected a number that f32 can hold")),
                "{error}"
            );
        }
    }
}

/// A row of the README's table.
fn row(info: &LossInfo) -> String {
    let loss = usual(info);
    let beta = info.reads_beta().then(|| format!("`beta` {}", info.beta));
    let mut usual: Vec<String> = beta.into_iter().collect();
    let parameters = info.parameters.iter();
    usual.extend(parameters.map(|parameter| format!("`{}` {}", parameter.name, parameter.usual(info.beta))));
    let label_smoothing = loss.label_smoothing();
    if label_smoothing != 0.0 {
        usual.push(format!("`label_smoothing` {label_smoothing}"));
    }
    let names: Vec<String> = info.names().map(|name| format!("`{name}`")).collect();
    let LossInfo { formula, source, needs, .. } = info;
    format!("| {} | {formula} | {source} | {needs} | {} |\n", names.join(" or "), usual.join(", "))
}

/// The README's table is this one; `make readme` writes it.
#[test]
fn readme_has_the_table() {
    const HEAD: &str = "| Name | Loss of a pair | Source | Needs | Usual values |\n|---|---|---|---|---|\n";
    let table: String = ALL.iter().map(row).collect();
    let readme = read("README.md");
    let (before, after) = readme.split_once(HEAD).expect("the table's head");
    let (found, after) = after.split_at(after.find("\n\n").expect("the table's end") + 1);
    if std::env::var_os("DPO_UPDATE_README").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
        std::fs::write(path, [before, HEAD, &table, after].concat()).unwrap();
    } else {
        let same = found == table;
        assert!(same, "the README's table of losses is not that of src/loss/: `make readme` writes it");
    }
}
