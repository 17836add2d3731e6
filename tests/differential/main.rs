//! The differential suite, written once: every executor against the f64 reference, over every way a batch can be laid
//! out. The CPU backend and the PTX interpreter always run; a GPU where there is one, and the suite says so where not.

mod case;
#[cfg(feature = "cuda")]
#[path = "../../build/compile.rs"]
#[allow(dead_code)] // the build script uses all of it
mod compile;
#[cfg(feature = "cuda")]
mod device_trouble;
#[cfg(feature = "cuda")]
#[path = "../common/devices.rs"]
mod devices;
mod entropy;
mod executor;
mod expected;
mod extras;
mod golden;
#[cfg(feature = "cuda")]
mod gpu;
#[path = "../common/guarded.rs"]
mod guarded;
mod guarded_memory;
#[cfg(feature = "cuda")]
#[path = "../common/head_case.rs"]
mod head_case;
#[cfg(feature = "cuda")]
mod interpreter;
mod invariance;
#[cfg(feature = "cuda")]
mod lm_head;
mod losses;
mod near_certain;
#[cfg(feature = "cuda")]
#[path = "../../build/nvrtc.rs"]
#[allow(dead_code)] // the build script uses all of it
mod nvrtc;
mod pair_stage;
#[cfg(feature = "cuda")]
mod product;
#[path = "../common/random.rs"]
mod random;
#[cfg(feature = "cuda")]
mod row_partition;
#[cfg(feature = "cuda")]
mod shared_workspace;
#[path = "../common/tolerance/mod.rs"]
#[allow(dead_code)] // tests/golden.rs and tests/properties.rs use the rest
mod tolerance;
mod trouble;
#[path = "../common/golden.rs"]
#[allow(dead_code)] // tests/golden.rs uses all of it
mod vectors;
#[cfg(feature = "cuda")]
mod windows;

use dpo_kernels::cpu::{self, InstructionSet};
use dpo_kernels::{LabelAlignment, LabelType, Logit, MetricsLevel, PairLoss, Transform};
use half::{bf16, f16};

use case::{Case, Mask, PairKind, Spec};
use executor::{Cpu, Executor, Factored};
use expected::Expected;
use guarded::{Guard, Guarded};
use random::Random;
use tolerance::precision::{CPU, CPU_UNFUSED};
use vectors::Element;

const VOCABS: [usize; 13] = [1, 2, 7, 31, 32, 33, 1000, 4096, 32000, 50257, 128256, 151936, 262144];

/// DPO_REDUCED leaves out the large vocabularies, for tools that slow the kernels down a hundredfold.
fn largest_vocab() -> usize {
    if std::env::var_os("DPO_REDUCED").is_some() { 4096 } else { usize::MAX }
}

/// Every vocab × stride × phase of the base pointer; the other ways a batch can differ are spread over these in turn, so
/// that each value of each meets each vocab.
fn matrix(element: usize) -> Vec<Spec> {
    let mut specs = Vec::new();
    let mut random = Random(42);
    let phases: Vec<usize> = [0, 2, 4, 8].into_iter().filter(|phase| phase % element == 0).collect();
    for vocab in VOCABS.into_iter().filter(|&vocab| vocab <= largest_vocab()) {
        for row_stride in [vocab, vocab + 1, vocab.next_multiple_of(64)] {
            for &phase in &phases {
                let index = specs.len();
                let large = vocab > 10_000;
                let loss = PairLoss::sigmoid(random.pick(&[0.01f32, 0.1, 0.5, 2.5])).unwrap();
                let loss = match index % 4 {
                    1 => loss.with_label_smoothing(random.pick(&[0.1f32, 0.5])).unwrap(),
                    2 => loss.with_length_normalization(),
                    3 => loss.with_normalizer(7.0).unwrap(),
                    _ => loss,
                };
                let pairs = random.pick(&[PairKind::Concatenated, PairKind::Interleaved, PairKind::Indexed]);
                let extras = random.below(2) == 0;
                let metrics = random.pick(&[
                    MetricsLevel::None,
                    MetricsLevel::None,
                    MetricsLevel::Entropy,
                    MetricsLevel::All,
                ]);
                specs.push(Spec {
                    vocab,
                    row_stride,
                    phase,
                    gradient_phase: random.pick(&[None, None, Some(0), Some(phases[index % phases.len()])]),
                    sequences: if large { 2 } else { 2 * (1 + random.below(5)) },
                    longest: if large { 2 } else { 1 + random.below(9) },
                    packed: random.below(2) == 1,
                    alignment: random.pick(&[LabelAlignment::Aligned, LabelAlignment::NextToken]),
                    label_type: random.pick(&[LabelType::I32, LabelType::I64]),
                    pairs,
                    mask: if large { Mask::Full } else { random.pick(&Mask::ALL) },
                    loss: if index % 7 == 6 { loss.without_reference() } else { loss },
                    tensors: false,
                    scale: random.pick(&[1.0, 8.0, 30.0]),
                    upstream: random.pick(&[1.0, 3.0, 0.125]),
                    transform: if extras { transform(&mut random, vocab) } else { Transform::default() },
                    ld_alpha: match pairs {
                        PairKind::Indexed => 1.0,
                        _ => random.pick(&[1.0, 1.0, 0.0, 0.3]),
                    },
                    metrics,
                    entropy_coef: metrics != MetricsLevel::None && random.below(2) == 0,
                    token_coef: random.below(3) == 0,
                    threshold: 0.0,
                    seed: random.next(),
                });
            }
        }
    }
    specs
}

fn transform(random: &mut Random, vocab: usize) -> Transform {
    Transform {
        scale: random.pick(&[1.0, 0.7, 2.5]),
        softcap: random.pick(&[None, Some(4.0), Some(30.0)]),
        valid_vocab: random.pick(&[None, Some(1 + random.clone().below(vocab)), Some(vocab.div_ceil(2))]),
    }
}

fn run_matrix<T: Logit + Into<f64>>(executor: &mut impl Executor, has_metrics: bool) {
    for spec in matrix(size_of::<T>()) {
        let without = Spec { metrics: MetricsLevel::None, entropy_coef: false, ..spec };
        let spec = if has_metrics { spec } else { without };
        let case = Case::<T>::draw(spec);
        Expected::of(&case).check(&executor.name(), &case, &executor.run(&case));
    }
}

/// The checks for one dtype, of the passes and of the factored forward.
fn run_dtype<T: Logit + Element + Into<f64>>(executor: &mut impl Executor) {
    run_checks::<T>(executor);
    run_layouts::<T>(executor);
}

/// What is small and particular, the losses first: a mistake, or a mutant, is met in seconds.
fn run_checks<T: Logit + Element + Into<f64>>(executor: &mut impl Executor) {
    losses::every_loss::<T>(executor, true);
    // It has the pair stage of the forward, but no token metrics.
    losses::every_loss::<T>(&mut Factored(executor), false);
    extras::long_sequences::<T>(executor, true);
    extras::long_sequences::<T>(&mut Factored(executor), false);
    extras::many_pairs::<T>(executor, true);
    extras::many_pairs::<T>(&mut Factored(executor), false);
    extras::skipped_rows_are_not_read::<T>(executor);
    entropy::gradients::<T>(executor);
    entropy::trouble::<T>(executor);
    extras::overflow_is_reported::<T>(executor);
    extras::metrics_change_nothing_else::<T>(executor);
    extras::padded_vocabulary::<T>(executor, MetricsLevel::All);
    extras::padded_vocabulary::<T>(&mut Factored(executor), MetricsLevel::None);
    extras::means_of_empty_sequences::<T>(executor);
    extras::ties_and_nonfinite_metrics::<T>(executor);
    near_certain::one_minus_p_is_not_a_subtraction::<T>(executor);
    near_certain::a_certain_label_is_exactly_0::<T>(executor);
    near_certain::an_infinite_label_is_not_certain::<T>(executor);
    run_passes::<T>(executor);
    run_passes::<T>(&mut Factored(executor));
}

/// The matrix.
fn run_layouts<T: Logit + Into<f64>>(executor: &mut impl Executor) {
    run_matrix::<T>(executor, true);
    run_matrix::<T>(&mut Factored(executor), false);
}

fn run_passes<T: Logit + Element + Into<f64>>(executor: &mut impl Executor) {
    golden::inputs::<T>(executor);
    invariance::run_twice_gives_the_same_bits::<T>(executor);
    invariance::a_pair_alone_gives_the_same_bits::<T>(executor);
    invariance::stride_and_phase_leave_the_bits_alone::<T>(executor);
    invariance::packed_gives_the_bits_of_padded::<T>(executor);
    invariance::policy_equal_to_reference_is_exactly_zero::<T>(executor);
    trouble::bad_labels::<T>(executor);
    trouble::nonfinite_logits::<T>(executor);
    trouble::large_logits::<T>(executor);
    trouble::uniform_rows::<T>(executor);
    pair_stage::a_nan_reference_spoils_its_pair::<T>(executor);
    pair_stage::nothing_scored_moves_nothing::<T>(executor);
}

/// [`run_checks`] on a device, and what only a device can meet.
#[cfg(feature = "cuda")]
fn run_checks_on_device<T: Logit + Element + Into<f64>>(
    executor: &mut executor::OnDevice<impl executor::Device>,
) {
    row_partition::short_rows::<T>(executor);
    row_partition::sliced_rows::<T>(executor);
    row_partition::sliced_rows_keep_their_bits::<T>(executor);
    row_partition::dealing_keeps_the_bits::<T>(executor);
    device_trouble::bad_cu_seqlens::<T>(true, |case| executor.run(case));
    device_trouble::bad_cu_seqlens::<T>(false, |case| executor.factored(case));
    device_trouble::bad_pairs::<T>(executor);
    device_trouble::bad_pair_values::<T>(executor);
    run_checks::<T>(executor);
    windows::windows_give_the_bits_of_one_launch::<T>(executor);
    shared_workspace::batches_take_turns::<T>(executor);
}

/// The kinds of trouble that `pair_loss` meets, on the judge itself.
#[test]
fn reference_backend() {
    pair_stage::every_kind(&mut pair_stage::Reference);
}

/// What [`cpu_backend`] is to do besides, in a process of its own: use no more than the named instructions, or access memory
/// beside a buffer.
const IN_CHILD: &str = "DPO_TEST_CPU_BACKEND";

#[test]
fn cpu_backend() {
    let mut beside = Guarded::new(Guard::Behind, &[0.0f32; 7]);
    let mut precision = &CPU;
    match std::env::var(IN_CHILD).as_deref() {
        Err(_) => (),
        Ok("avx2") => cpu::use_at_most(InstructionSet::Avx2),
        Ok("portable") => {
            cpu::use_at_most(InstructionSet::Portable);
            // On other targets, what every processor has may have a fused multiply-add.
            #[cfg(target_arch = "x86_64")]
            {
                precision = &CPU_UNFUSED;
            }
        }
        Ok("read too far") => panic!("read {}", beside.read_too_far()),
        Ok("write too early") => {
            beside = Guarded::new(Guard::Before, &[0.0; 7]);
            beside.write_too_early();
            panic!("written");
        }
        Ok(other) => panic!("{IN_CHILD}: {other:?} is unknown"),
    }
    for guard in [Guard::Behind, Guard::Before] {
        let cpu = &mut Cpu { guard, precision };
        pair_stage::every_kind(cpu);
        run_dtype::<f32>(cpu);
        run_dtype::<f16>(cpu);
        run_dtype::<bf16>(cpu);
    }
}

/// [`cpu_backend`] in a process of its own.
fn cpu_backend_in_child(told: &str) -> std::process::Output {
    let executable = std::env::current_exe().expect("the tests have a file");
    let child = &mut std::process::Command::new(executable);
    child
        .args(["cpu_backend", "--exact"])
        .env(IN_CHILD, told)
        .env("DPO_REDUCED", "1")
        .output()
        .expect("it starts")
}

/// The other instructions that this machine's processor has. (Without AVX-512, the first of these is what the others run.)
#[test]
fn cpu_backend_with_lesser_instructions() {
    for instructions in ["avx2", "portable"] {
        let output = cpu_backend_in_child(instructions);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{instructions}: {}\n{said}", output.status);
    }
}

/// The guards of the buffers are there: a byte too far ends a process.
#[cfg(unix)]
#[test]
fn a_byte_too_far_is_a_crash() {
    use std::os::unix::process::ExitStatusExt;
    for fault in ["read too far", "write too early"] {
        let status = cpu_backend_in_child(fault).status;
        assert!([Some(libc::SIGSEGV), Some(libc::SIGBUS)].contains(&status.signal()), "{fault}: {status}");
    }
}

#[cfg(feature = "cuda")]
#[test]
fn gpu() {
    gpu::run();
}

#[cfg(feature = "cuda")]
#[test]
fn interpreted() {
    interpreter::run();
}
