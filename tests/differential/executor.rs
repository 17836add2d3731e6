//! The ways to run a case. The kernels' plans run on anything that can hold device memory and take a launch.

#[cfg(feature = "cuda")]
use dpo_kernels::batch::MeanTokenMetrics;
use dpo_kernels::batch::{Logps, PairOutputs, TokenMetrics};
use dpo_kernels::{Coef, GradientStatus, Logit, cpu};

use crate::case::{Case, Metrics};

/// Everything that the three stages give.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome<T> {
    pub logps: Logps<f32>,
    pub pairs: PairOutputs<f32>,
    /// As the gradient buffer holds it, with what lies between the rows.
    pub dlogits: Vec<T>,
    pub gradient: GradientStatus,
    /// The gradient was rounded before its coefficients came to it, too.
    pub factored: bool,
}

/// Something that runs forward and backward passes.
pub trait Executor {
    fn name(&self) -> String;
    fn run<T: Logit>(&mut self, case: &Case<T>) -> Outcome<T>;
    /// The factored forward, whose gradient without coefficients stands in the place of dlogits.
    fn factored<T: Logit>(&mut self, case: &Case<T>) -> Outcome<T>;
}

/// The passes by way of the factored forward: coefficients come to its gradient here.
pub struct Factored<'a, E>(pub &'a mut E);

impl<E: Executor> Executor for Factored<'_, E> {
    fn name(&self) -> String {
        format!("{}, factored", self.0.name())
    }

    fn run<T: Logit>(&mut self, case: &Case<T>) -> Outcome<T> {
        let mut outcome = self.0.factored(case);
        let targets = case.targets();
        let tokens = case.token_factors(&outcome.logps.token_weights);
        for (s, bounds) in case.cu_seqlens.windows(2).enumerate() {
            let coef = case.own_coef.as_ref().unwrap_or(&outcome.pairs.coef)[s] * case.spec.upstream;
            for row in bounds[0] as usize..bounds[1] as usize {
                // What stands in rows that are not scored is final.
                if targets[row].is_none() {
                    continue;
                }
                let coef = tokens.as_ref().map_or(coef, |tokens| coef * tokens[row]);
                for value in outcome.dlogits[row * case.spec.row_stride..].iter_mut().take(case.spec.vocab) {
                    *value = T::from_f32(coef * value.to_f32());
                }
            }
        }
        outcome
    }

    fn factored<T: Logit>(&mut self, case: &Case<T>) -> Outcome<T> {
        self.0.factored(case)
    }
}

/// The value that fills a separate gradient buffer before the pass, so that what is not written shows.
pub fn untouched<T: Logit>() -> T {
    T::from_f32(12345.0)
}

pub struct Cpu;

impl Executor for Cpu {
    fn name(&self) -> String {
        "cpu".into()
    }

    fn run<T: Logit>(&mut self, case: &Case<T>) -> Outcome<T> {
        let (batch, labels, spec) = (case.batch(), case.labels(), &case.spec);
        let mut forward = cpu::Forward::default();
        forward.logps.metrics = (spec.metrics != Metrics::None).then(TokenMetrics::default);
        cpu::forward_with(&batch, &case.logits, labels, &case.inputs(), &spec.loss, &mut forward).unwrap();
        let cpu::Forward { mut logps, pairs } = forward;
        // It computes all of them together.
        if let (Metrics::Entropy, Some(metrics)) = (spec.metrics, &mut logps.metrics) {
            let entropy = std::mem::take(&mut metrics.entropy);
            *metrics = TokenMetrics { entropy, ..TokenMetrics::default() };
        }
        let upstream = spec.upstream;
        let tokens = case.token_factors(&logps.token_weights);
        let coef = Coef {
            sequences: Some(case.own_coef.as_deref().unwrap_or(&pairs.coef)),
            tokens: tokens.as_deref(),
            threshold: spec.threshold,
        };
        let mut dlogits = case.logits.clone();
        let gradient = if spec.gradient_phase.is_none() {
            cpu::backward_in_place(&batch, &mut dlogits, labels, (&logps).into(), coef, upstream).unwrap()
        } else {
            dlogits.fill(untouched());
            let logits = &case.logits;
            cpu::backward(&batch, logits, labels, (&logps).into(), coef, upstream, &mut dlogits).unwrap()
        };
        Outcome { logps, pairs, dlogits, gradient, factored: false }
    }

    fn factored<T: Logit>(&mut self, case: &Case<T>) -> Outcome<T> {
        let (batch, labels, loss) = (case.batch(), case.labels(), &case.spec.loss);
        let (mut forward, inputs) = (cpu::Forward::default(), case.inputs());
        let dlogits = if case.spec.gradient_phase.is_none() {
            let mut buffer = case.logits.clone();
            cpu::factored_in_place(&batch, &mut buffer, labels, &inputs, loss, &mut forward).unwrap();
            buffer
        } else {
            let mut buffer = vec![untouched(); case.logits.len()];
            cpu::factored(&batch, &case.logits, labels, &inputs, loss, &mut forward, &mut buffer).unwrap();
            buffer
        };
        let cpu::Forward { logps, pairs } = forward;
        Outcome { logps, pairs, dlogits, gradient: GradientStatus::default(), factored: true }
    }
}

#[cfg(feature = "cuda")]
pub use kernels::{Cuda, Device, OnDevice, bytes_of, values_of};

#[cfg(feature = "cuda")]
mod kernels {
    use std::cell::RefCell;
    use std::mem::size_of;
    use std::sync::Arc;

    use cudarc::driver::CudaContext;
    use dpo_kernels::batch::{Batch, LabelType};
    use dpo_kernels::cuda::params::{
        DPO_NO_TROUBLE, DPO_TROUBLES, DpoPairMetrics, DpoProgress, DpoStatus, DpoMeanTokenMetrics,
    };
    use dpo_kernels::cuda::plan::{
        self, DeviceAddress, DeviceArray, DevicePairInputs, GradientBuffers, Inputs, Launch, LogpsBuffers,
        PairBuffers, TokenMetricsBuffers,
    };
    use dpo_kernels::cuda::{Kernels, context};
    use dpo_kernels::loss::PairInputs;
    use dpo_kernels::{Error, Pairs};

    use super::*;
    use crate::case::OwnedLabels;

    /// Memory and launches: a GPU, or something that stands in for one.
    pub trait Device {
        fn name(&self) -> String;
        /// What plans for it take.
        fn properties(&self) -> plan::Device;
        /// Allocates a copy of `bytes`, `phase` bytes past a 16-byte boundary.
        fn upload(&mut self, bytes: &[u8], phase: usize) -> DeviceAddress;
        /// Allocates `len` bytes that hold nothing yet.
        fn reserve(&mut self, len: usize) -> DeviceAddress;
        fn download(&mut self, address: DeviceAddress, len: usize) -> Vec<u8>;
        fn launch(&mut self, launch: &Launch);
        /// Frees everything.
        fn clear(&mut self);
    }

    /// Runs plans on a device.
    pub struct OnDevice<D>(pub D);

    pub fn bytes_of<T: Copy>(values: &[T]) -> &[u8] {
        // SAFETY: plain numbers.
        unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
    }

    pub fn values_of<T: Copy>(bytes: &[u8]) -> Vec<T> {
        // SAFETY: plain numbers, read without any claim of alignment.
        bytes
            .chunks_exact(size_of::<T>())
            .map(|chunk| unsafe { chunk.as_ptr().cast::<T>().read_unaligned() })
            .collect()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    impl<D: Device> OnDevice<D> {
        fn fetch<T: Copy>(&mut self, address: DeviceAddress, len: usize) -> Vec<T> {
            values_of(&self.0.download(address, len * size_of::<T>()))
        }

        fn metrics(&mut self, wanted: PairMetrics, rows: usize, sequences: usize) -> TokenMetricsBuffers {
            let entropy = (wanted != Metrics::None).then(|| self.0.reserve(4 * rows));
            let mut place = |words: usize| (wanted == Metrics::All).then(|| self.0.reserve(4 * words));
            TokenMetricsBuffers {
                entropy,
                correct: place(rows),
                mean_logit: place(rows),
                sum_p2: place(rows),
                sequence_log_weights: place(sequences),
                means: place(size_of::<DpoMeanTokenMetrics>() / 4),
            }
        }

        fn fetch_means(&mut self, from: &TokenMetricsBuffers) -> MeanTokenMetrics<f32> {
            self.fetch::<DpoMeanTokenMetrics>(from.means.unwrap(), 1)[0].into()
        }

        fn fetch_metrics(
            &mut self,
            from: &TokenMetricsBuffers,
            rows: usize,
            sequences: usize,
        ) -> TokenMetrics<f32> {
            let entropy = self.fetch(from.entropy.unwrap(), rows);
            let Some(correct) = from.correct else {
                return TokenMetrics { entropy, ..TokenMetrics::default() };
            };
            TokenMetrics {
                entropy,
                correct: self.fetch(correct, rows),
                mean_logit: self.fetch(from.mean_logit.unwrap(), rows),
                sum_p2: self.fetch(from.sum_p2.unwrap(), rows),
                sequence_log_weights: self.fetch(from.sequence_log_weights.unwrap(), sequences),
                means: self.fetch_means(from),
            }
        }

        fn indices(&mut self, indices: &[i32]) -> DeviceArray {
            DeviceArray { address: self.0.upload(bytes_of(indices), 0), len: indices.len() }
        }
    }

    impl<D: Device> Executor for OnDevice<D> {
        fn name(&self) -> String {
            self.0.name()
        }

        fn run<T: Logit>(&mut self, case: &Case<T>) -> Outcome<T> {
            let device = self.0.properties();
            let on = self.upload(case);
            let Uploaded { batch, inputs, out, buffers, .. } = &on;
            let loss = Some((&case.spec.loss, buffers));
            self.0.launch(&plan::forward(&device, batch, inputs, out, loss, on.workspace).unwrap());
            let (logps, pairs) = self.results(case, &on);
            self.check_logps_alone(batch, inputs, &logps);
            self.check_pair_loss_alone(case, &batch.pairs, out, buffers, &pairs);

            // Half of the upstream gradient comes from the device, half from the host.
            let upstream = self.0.upload(bytes_of(&[2.0f32]), 0);
            let own_coef = case.own_coef.as_ref().map(|values| self.0.upload(bytes_of(values), 0));
            let token_coef = case.token_factors(&logps.token_weights);
            let nonfinite_row = self.0.upload(bytes_of(&[DPO_NO_TROUBLE]), 0);
            let gradient = GradientBuffers {
                logsumexp: out.logsumexp.unwrap(),
                logsumexp_residual: out.logsumexp_residual,
                coef: Some(own_coef.unwrap_or(buffers.coef)),
                token_coef: token_coef.map(|values| self.0.upload(bytes_of(&values), 0)),
                upstream: Some(upstream),
                upstream_scale: case.spec.upstream / 2.0,
                threshold: case.spec.threshold,
                nonfinite_row: Some(nonfinite_row),
                dlogits: on.gradient,
            };
            self.0.launch(&plan::backward(&device, batch, inputs, &gradient).unwrap());
            let dlogits = self.fetch(on.gradient, case.logits.len());
            let [row]: [u32; 1] = self.fetch(nonfinite_row, 1).try_into().unwrap();
            let gradient = GradientStatus { nonfinite_row: (row != DPO_NO_TROUBLE).then_some(row as usize) };
            self.0.clear();
            Outcome { logps, pairs, dlogits, gradient, factored: false }
        }

        fn factored<T: Logit>(&mut self, case: &Case<T>) -> Outcome<T> {
            let device = self.0.properties();
            let on = self.upload(case);
            let Uploaded { batch, inputs, out, buffers, gradient, workspace } = &on;
            let loss = Some((&case.spec.loss, buffers));
            let launch = plan::factored(&device, batch, inputs, out, loss, *gradient, *workspace).unwrap();
            self.0.launch(&launch);
            let (logps, pairs) = self.results(case, &on);
            let dlogits = self.fetch(*gradient, case.logits.len());
            self.0.clear();
            Outcome { logps, pairs, dlogits, gradient: GradientStatus::default(), factored: true }
        }
    }

    /// A case on the device, with room for its results.
    struct Uploaded {
        batch: Batch<DeviceArray>,
        inputs: Inputs,
        out: LogpsBuffers,
        buffers: PairBuffers,
        gradient: DeviceAddress,
        workspace: DeviceAddress,
    }

    impl<D: Device> OnDevice<D> {
        fn upload<T: Logit>(&mut self, case: &Case<T>) -> Uploaded {
            let spec = &case.spec;
            let batch: Batch<DeviceArray> =
                case.batch().try_map_indices(|array| Ok(self.indices(array))).expect("uploads do not fail");
            let (rows, sequences, pairs) = (case.rows(), spec.sequences, batch.pair_count());
            let (label_type, labels) = match &case.labels {
                OwnedLabels::I32(labels) => (LabelType::I32, self.0.upload(bytes_of(labels), 0)),
                OwnedLabels::I64(labels) => (LabelType::I64, self.0.upload(bytes_of(labels), 0)),
            };
            let logits = self.0.upload(bytes_of(&case.logits), spec.phase);
            let out = LogpsBuffers {
                logps: self.0.reserve(4 * sequences),
                scored: Some(self.0.reserve(4 * sequences)),
                token_logps: Some(self.0.reserve(4 * rows)),
                logsumexp: Some(self.0.reserve(4 * rows)),
                logsumexp_residual: Some(self.0.reserve(4 * rows)),
                token_weights: Some(self.0.reserve(4 * rows)),
                metrics: self.metrics(spec.metrics, rows, sequences),
                status: self.0.reserve(size_of::<DpoStatus>()),
            };
            let buffers = PairBuffers {
                inputs: self.pair_inputs(&case.inputs()),
                pair_losses: self.0.reserve(4 * pairs),
                chosen_rewards: self.0.reserve(4 * pairs),
                rejected_rewards: self.0.reserve(4 * pairs),
                margins: self.0.reserve(4 * pairs),
                coef: self.0.reserve(4 * sequences),
                metrics: self.0.reserve(size_of::<DpoPairMetrics>()),
            };
            let gradient = match spec.gradient_phase {
                None => logits,
                Some(phase) => self.0.upload(bytes_of(&vec![untouched::<T>(); case.logits.len()]), phase),
            };
            // As an earlier launch might have left it: counters at zero, and anything behind them.
            let mut left = vec![0; plan::workspace_bytes(&batch).unwrap()];
            left[size_of::<DpoProgress>() + 4 * (sequences + rows)..].fill(0xff);
            let workspace = self.0.upload(&left, 0);
            let inputs = Inputs { dtype: T::DTYPE, logits, label_type, labels };
            Uploaded { batch, inputs, out, buffers, gradient, workspace }
        }

        /// What `logps` and `pair_loss` have written.
        fn results<T: Logit>(&mut self, case: &Case<T>, on: &Uploaded) -> (Logps<f32>, PairOutputs<f32>) {
            let Uploaded { batch, out, buffers, workspace, .. } = on;
            let (rows, sequences, pairs) = (case.rows(), case.spec.sequences, batch.pair_count());
            // Counters and findings are back at zero, so a captured graph replays.
            let counters = size_of::<DpoProgress>() + 4 * (sequences + rows);
            assert!(self.0.download(*workspace, counters).iter().all(|&byte| byte == 0), "{:?}", case.spec);

            let [metrics]: [DpoPairMetrics; 1] = self.fetch(buffers.metrics, 1).try_into().unwrap();
            let status =
                DpoStatus { first: self.fetch(out.status, DPO_TROUBLES as usize).try_into().unwrap() };
            let logps = Logps {
                logps: self.fetch(out.logps, sequences),
                scored: self.fetch(out.scored.unwrap(), sequences),
                token_logps: self.fetch(out.token_logps.unwrap(), rows),
                logsumexp: self.fetch(out.logsumexp.unwrap(), rows),
                logsumexp_residual: self.fetch(out.logsumexp_residual.unwrap(), rows),
                token_weights: self.fetch(out.token_weights.unwrap(), rows),
                metrics: out.metrics.entropy.map(|_| self.fetch_metrics(&out.metrics, rows, sequences)),
                status: status.into(),
            };
            let outputs = PairOutputs {
                metrics: metrics.into(),
                pair_losses: self.fetch(buffers.pair_losses, pairs),
                chosen_rewards: self.fetch(buffers.chosen_rewards, pairs),
                rejected_rewards: self.fetch(buffers.rejected_rewards, pairs),
                margins: self.fetch(buffers.margins, pairs),
                coef: self.fetch(buffers.coef, sequences),
            };
            (logps, outputs)
        }
    }

    impl<D: Device> OnDevice<D> {
        fn pair_inputs(&mut self, inputs: &PairInputs<'_, f32>) -> DevicePairInputs {
            let upload = RefCell::new(|bytes: &[u8]| self.0.upload(bytes, 0));
            let array =
                |bytes: &[u8]| DeviceArray { address: upload.borrow_mut()(bytes), len: bytes.len() / 4 };
            inputs.map(
                |floats| array(bytes_of(floats)),
                |counts| array(bytes_of(counts)),
                |number| array(bytes_of(&[number])).address,
            )
        }

        /// `logps` alone, as for a reference model, with no output but what it must have, and means where there are any.
        fn check_logps_alone(&mut self, batch: &Batch<DeviceArray>, inputs: &Inputs, fused: &Logps<f32>) {
            let status = self.0.reserve(size_of::<DpoStatus>());
            let logps = self.0.reserve(4 * fused.logps.len());
            let fused_means = fused.metrics.as_ref().filter(|metrics| !metrics.correct.is_empty());
            let means = fused_means.map(|_| self.0.reserve(size_of::<DpoMeanTokenMetrics>()));
            let metrics = TokenMetricsBuffers { means, ..TokenMetricsBuffers::default() };
            let out = LogpsBuffers { logps, status, metrics, ..LogpsBuffers::default() };
            // Aligned to 4, as it may be.
            let workspace = self.0.upload(&vec![0; plan::workspace_bytes(batch).unwrap()], 4);
            let device = self.0.properties();
            self.0.launch(&plan::forward(&device, batch, inputs, &out, None, workspace).unwrap());
            let found: Vec<f32> = self.fetch(logps, fused.logps.len());
            assert_eq!(bits(&found), bits(&fused.logps), "logps of `logps` alone, {batch:?}");
            if let Some(TokenMetrics { means, .. }) = fused_means {
                let alone = self.fetch_means(&metrics);
                assert_eq!(format!("{alone:?}"), format!("{means:?}"), "means of `logps` alone, {batch:?}");
            }
        }

        /// `pair_loss` as a launch of its own gives the bits that the fused pass gave.
        fn check_pair_loss_alone<T: Logit>(
            &mut self,
            case: &Case<T>,
            pairs: &Pairs<DeviceArray>,
            out: &LogpsBuffers,
            fused: &PairBuffers,
            outputs: &PairOutputs<f32>,
        ) {
            let (sequences, count) = (case.spec.sequences, outputs.margins.len());
            let status = self.0.reserve(size_of::<DpoStatus>());
            let alone = PairBuffers {
                inputs: fused.inputs,
                pair_losses: self.0.reserve(4 * count),
                chosen_rewards: self.0.reserve(4 * count),
                rejected_rewards: self.0.reserve(4 * count),
                margins: self.0.reserve(4 * count),
                coef: self.0.reserve(4 * sequences),
                metrics: self.0.reserve(size_of::<DpoPairMetrics>()),
            };
            let loss = &case.spec.loss;
            let launch =
                plan::pair_loss(pairs, sequences, out.logps, out.scored, loss, &alone, status).unwrap();
            self.0.launch(&launch);
            for (name, address, expected) in [
                ("pair_losses", alone.pair_losses, &outputs.pair_losses),
                ("chosen_rewards", alone.chosen_rewards, &outputs.chosen_rewards),
                ("rejected_rewards", alone.rejected_rewards, &outputs.rejected_rewards),
                ("margins", alone.margins, &outputs.margins),
                ("coef", alone.coef, &outputs.coef),
            ] {
                let found: Vec<f32> = self.fetch(address, expected.len());
                assert_eq!(bits(&found), bits(expected), "{name} of `pair_loss` alone, {:?}", case.spec);
            }
        }
    }

    /// A real GPU.
    pub struct Cuda {
        kernels: Kernels,
        context: Arc<CudaContext>,
        buffers: Vec<cudarc::driver::sys::CUdeviceptr>,
    }

    impl Cuda {
        /// The first device.
        pub fn open() -> Result<Self, Error> {
            let context = context(0)?;
            Ok(Cuda::with(&context, Kernels::new(&context)?))
        }

        /// A device with kernels loaded otherwise.
        pub fn with(context: &Arc<CudaContext>, kernels: Kernels) -> Self {
            Cuda { kernels, context: context.clone(), buffers: vec![] }
        }
    }

    impl Device for Cuda {
        fn name(&self) -> String {
            self.context.name().unwrap_or_else(|_| "cuda".into())
        }

        fn properties(&self) -> plan::Device {
            *self.kernels.device()
        }

        fn upload(&mut self, bytes: &[u8], phase: usize) -> DeviceAddress {
            let address = self.reserve(bytes.len() + phase) + phase as u64;
            // SAFETY: the buffer was just allocated for as many bytes.
            unsafe { cudarc::driver::result::memcpy_htod_sync(address, bytes) }.unwrap();
            address
        }

        fn reserve(&mut self, len: usize) -> DeviceAddress {
            // SAFETY: freed in `clear`.
            let address = unsafe { cudarc::driver::result::malloc_sync(len.max(1)) }.unwrap();
            self.buffers.push(address);
            address
        }

        fn download(&mut self, address: DeviceAddress, len: usize) -> Vec<u8> {
            let mut bytes = vec![0u8; len];
            // SAFETY: the suite reads only what it allocated.
            unsafe { cudarc::driver::result::memcpy_dtoh_sync(&mut bytes, address) }.unwrap();
            bytes
        }

        fn launch(&mut self, launch: &Launch) {
            // SAFETY: the suite's buffers have the documented sizes and live until `clear`.
            unsafe { self.kernels.launch(launch, std::ptr::null_mut()) }.unwrap();
            self.context.synchronize().unwrap();
        }

        fn clear(&mut self) {
            for address in self.buffers.drain(..) {
                // SAFETY: allocated in `reserve`, freed once.
                unsafe { cudarc::driver::result::free_sync(address) }.unwrap();
            }
        }
    }
}
