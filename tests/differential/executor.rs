//! The ways to run a case. The kernels' plans run on anything that can hold device memory and take a launch.

use dpo_kernels::cpu::{self, BackwardInputs, Logsumexp};
use dpo_kernels::loss::PairTensors;
use dpo_kernels::memory::Unallocated;
use dpo_kernels::{
    Coef, EntropyCoef, Forward, ForwardTensors, GradientStatus, HostBatch, Labels, Logit, Logps,
    MetricsLevel, PairInputs, PairOutputs, TokenMetricTensors,
};

use crate::case::{Case, OwnedLabels};
use crate::guarded::{Guard, Guarded};
use crate::guarded_memory::{CopyOut, GuardedMemory, MakeRoom};
use crate::tolerance::precision::Precision;

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
    /// Of the backend.
    pub precision: &'static Precision,
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

/// The CPU backend, with every buffer beside an inaccessible page.
pub struct Cpu {
    pub guard: Guard,
    /// That of the instructions it uses.
    pub precision: &'static Precision,
}

/// What a case gives to a pass.
struct Placed<T> {
    logits: Guarded<T>,
    labels: PlacedLabels,
    indices: PlacedIndices,
    inputs: PlacedInputs,
}

/// The index arrays of a batch.
pub struct PlacedIndices(Vec<Guarded<i32>>);

impl PlacedIndices {
    /// `batch` with these arrays in the places of its own.
    pub fn batch(&self, batch: &HostBatch<'_>) -> HostBatch<'_> {
        let mut indices = self.0.iter();
        let placed = |_: &&[i32]| Ok(&**indices.next().expect("each has its place"));
        batch.try_map_indices(placed).expect("all are there")
    }
}

type PlacedInputs = PairTensors<Guarded<f32>, Guarded<u32>, f32>;

/// Slices of placed inputs.
pub fn slices(inputs: &PlacedInputs) -> PairInputs<'_, f32> {
    inputs.as_ref().map(|floats| &**floats, |counts| &**counts, |&number| number)
}

enum PlacedLabels {
    I32(Guarded<i32>),
    I64(Guarded<i64>),
}

impl<T: Logit> Placed<T> {
    fn new(case: &Case<T>, cpu: &Cpu) -> Self {
        Placed {
            logits: cpu.place(&case.logits),
            labels: match &case.labels {
                OwnedLabels::I32(labels) => PlacedLabels::I32(cpu.place(labels)),
                OwnedLabels::I64(labels) => PlacedLabels::I64(cpu.place(labels)),
            },
            indices: cpu.place_indices(&case.batch()),
            inputs: cpu.place_inputs(&case.inputs()),
        }
    }

    fn labels(&self) -> Labels<'_> {
        match &self.labels {
            PlacedLabels::I32(labels) => Labels::I32(labels),
            PlacedLabels::I64(labels) => Labels::I64(labels),
        }
    }
}

impl Cpu {
    pub fn place<T: Copy>(&self, values: &[T]) -> Guarded<T> {
        Guarded::new(self.guard, values)
    }

    pub fn place_indices(&self, batch: &HostBatch<'_>) -> PlacedIndices {
        let mut indices = vec![];
        let place = |array: &&[i32]| {
            indices.push(self.place(array));
            Ok(())
        };
        batch.try_map_indices(place).expect("there is room for all");
        PlacedIndices(indices)
    }

    pub fn place_inputs(&self, inputs: &PairInputs<'_, f32>) -> PlacedInputs {
        inputs.map(|floats| self.place(floats), |counts| self.place(counts), |number| number)
    }

    /// Room for all results, and for the token metrics of a level.
    pub fn room(&self, metrics: MetricsLevel) -> ForwardTensors<GuardedMemory> {
        let mut unallocated = ForwardTensors::<Unallocated<f32>>::default();
        unallocated.logps.metrics = (metrics != MetricsLevel::None).then(TokenMetricTensors::default);
        let beyond_entropy = ["correct", "mean_logit", "sum_p2", "sequence_log_weights", "mean"];
        let wanted = |name: &str| metrics != MetricsLevel::Entropy || !beyond_entropy.contains(&name);
        let Ok(room) = unallocated.convert(&mut MakeRoom(self.guard, wanted));
        room
    }
}

impl Executor for Cpu {
    fn name(&self) -> String {
        format!("cpu, guards {:?}", self.guard)
    }

    fn run<T: Logit>(&mut self, case: &Case<T>) -> Outcome<T> {
        let (placed, spec) = (Placed::new(case, self), &case.spec);
        let (batch, labels) = (placed.indices.batch(&case.batch()), placed.labels());
        let inputs = slices(&placed.inputs);
        let mut forward = self.room(spec.metrics);
        cpu::forward(&batch, &placed.logits, labels, &inputs, &spec.loss, &mut forward).unwrap();
        let Ok(Forward { logps, pairs }) = forward.convert(&mut CopyOut);

        let coef = self.place(case.own_coef.as_deref().unwrap_or(&pairs.coef));
        let tokens = case.token_factors(&logps.token_weights).map(|tokens| self.place(&tokens));
        let coef = Coef { sequences: Some(&coef), tokens: tokens.as_deref(), threshold: spec.threshold };
        let (values, residual) = (self.place(&logps.logsumexp), self.place(&logps.logsumexp_residual));
        let logsumexp = Logsumexp { values: &values, residual: Some(&residual) };
        let entropies = case.entropy_coef.as_ref().map(|coef| {
            let metrics = logps.metrics.as_ref().expect("a case with their coefficients asks for them");
            (self.place(coef), self.place(&metrics.entropy))
        });
        let inputs = BackwardInputs {
            entropy: entropies.as_ref().map(|(coef, entropy)| EntropyCoef { coef, entropy }),
            ..BackwardInputs::new(logsumexp, coef).with_upstream(spec.upstream)
        };
        let (dlogits, gradient) = if spec.gradient_phase.is_none() {
            let mut dlogits = self.place(&case.logits);
            let status = cpu::backward_in_place(&batch, &mut dlogits, labels, inputs);
            (dlogits, status.unwrap())
        } else {
            let mut dlogits = self.place(&vec![untouched(); case.logits.len()]);
            let logits = &placed.logits;
            let status = cpu::backward(&batch, logits, labels, inputs, &mut dlogits);
            (dlogits, status.unwrap())
        };
        Outcome {
            logps,
            pairs,
            dlogits: dlogits.to_vec(),
            gradient,
            factored: false,
            precision: self.precision,
        }
    }

    fn factored<T: Logit>(&mut self, case: &Case<T>) -> Outcome<T> {
        let placed = Placed::new(case, self);
        let (batch, labels) = (placed.indices.batch(&case.batch()), placed.labels());
        let inputs = slices(&placed.inputs);
        let (mut forward, loss) = (self.room(MetricsLevel::None), &case.spec.loss);
        let dlogits = if case.spec.gradient_phase.is_none() {
            let mut buffer = self.place(&case.logits);
            cpu::factored_in_place(&batch, &mut buffer, labels, &inputs, loss, &mut forward).unwrap();
            buffer
        } else {
            let mut buffer = self.place(&vec![untouched(); case.logits.len()]);
            let logits = &placed.logits;
            cpu::factored(&batch, logits, labels, &inputs, loss, &mut forward, &mut buffer).unwrap();
            buffer
        };
        let Ok(Forward { logps, pairs }) = forward.convert(&mut CopyOut);
        let (dlogits, gradient) = (dlogits.to_vec(), GradientStatus::default());
        Outcome { logps, pairs, dlogits, gradient, factored: true, precision: self.precision }
    }
}

#[cfg(feature = "cuda")]
pub use kernels::{Cuda, Device, OnDevice, Uploaded, bytes_of, values_of};

#[cfg(feature = "cuda")]
mod kernels {
    use std::cell::RefCell;
    use std::convert::Infallible;
    use std::mem::size_of;
    use std::sync::Arc;

    use cudarc::driver::CudaContext;
    use dpo_kernels::cuda::params::{DPO_NO_TROUBLE, DpoProgress};
    use dpo_kernels::cuda::plan::{
        self, Addresses, DeviceAddress, DeviceArray, DevicePairInputs, EntropyBuffers, ForwardBuffers,
        GradientBuffers, Inputs, Launch, LogpsBuffers, PairLossArguments, Plan, Product, Step,
        TokenMetricBuffers,
    };
    use dpo_kernels::cuda::{Kernels, Products, context};
    use dpo_kernels::memory::{Conversion, Extent, Field, Record, Unallocated, Vectors};
    use dpo_kernels::{
        Batch, Error, ForwardTensors, LabelType, MeanTokenMetrics, PairInputs, PairOutputTensors, Pairs,
        Status, TokenMetricTensors, TokenMetrics,
    };

    use super::*;
    use crate::case::OwnedLabels;
    use crate::pair_stage::{PairCall, PairExecutor, widen};
    use crate::product::multiply;
    use crate::tolerance::precision::KERNELS;

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
        fn write(&mut self, address: DeviceAddress, bytes: &[u8]);
        fn launch(&mut self, launch: &Launch);
        /// Frees everything.
        fn clear(&mut self);

        /// A plain product, where the device has no library for it.
        fn product(&mut self, product: &Product) {
            multiply(self, product);
        }

        /// Runs a plan's steps.
        fn run(&mut self, plan: Plan) {
            for step in plan.steps() {
                match step {
                    Step::Launch(launch) => self.launch(launch),
                    Step::Product(product) => self.product(product),
                    Step::Zero { address, bytes } => self.write(*address, &vec![0; *bytes]),
                }
            }
        }
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

    /// Makes room for results.
    struct Reserve<'a, D>(&'a mut D, Extent);

    impl<D: Device> Conversion<Unallocated<f32>, Addresses> for Reserve<'_, D> {
        type Error = Infallible;

        fn floats(&mut self, field: Field, (): &()) -> Result<Option<DeviceAddress>, Infallible> {
            Ok(Some(self.0.reserve(4 * field.shape.len(&self.1))))
        }

        fn counts(&mut self, field: Field, (): &()) -> Result<Option<DeviceAddress>, Infallible> {
            self.floats(field, &())
        }

        fn record<T: Record>(
            &mut self,
            _: &'static str,
            (): &(),
        ) -> Result<Option<DeviceAddress>, Infallible> {
            Ok(Some(self.0.reserve(size_of::<T::Device>())))
        }
    }

    /// Brings results to the host; what is not there is empty.
    struct Fetch<'a, D>(&'a mut D, Extent);

    impl<D: Device> Fetch<'_, D> {
        fn array<T: Copy>(
            &mut self,
            field: Field,
            from: &Option<DeviceAddress>,
        ) -> Result<Vec<T>, Infallible> {
            let bytes = field.shape.len(&self.1) * size_of::<T>();
            Ok(from.map(|from| values_of(&self.0.download(from, bytes))).unwrap_or_default())
        }
    }

    impl<D: Device> Conversion<Addresses, Vectors<f32>> for Fetch<'_, D> {
        type Error = Infallible;

        fn floats(&mut self, field: Field, from: &Option<DeviceAddress>) -> Result<Vec<f32>, Infallible> {
            self.array(field, from)
        }

        fn counts(&mut self, field: Field, from: &Option<DeviceAddress>) -> Result<Vec<u32>, Infallible> {
            self.array(field, from)
        }

        fn record<T: Record>(
            &mut self,
            _: &'static str,
            from: &Option<DeviceAddress>,
        ) -> Result<T, Infallible> {
            let Some(from) = *from else { return Ok(T::default()) };
            Ok(values_of::<T::Device>(&self.0.download(from, size_of::<T::Device>()))[0].into())
        }
    }

    /// The token metrics, where there are all of them.
    fn all_metrics(logps: &Logps) -> Option<&TokenMetrics> {
        logps.metrics.as_ref().filter(|metrics| !metrics.correct.is_empty())
    }

    impl<D: Device> OnDevice<D> {
        /// Room for all results.
        pub fn reserve_results(&mut self, extent: Extent) -> ForwardBuffers {
            let mut unallocated = ForwardTensors::<Unallocated<f32>>::default();
            unallocated.logps.metrics = Some(TokenMetricTensors::default());
            let Ok(out) = unallocated.convert(&mut Reserve(&mut self.0, extent));
            out
        }

        /// Results on the host.
        pub fn fetch_results(&mut self, out: &ForwardBuffers, extent: Extent) -> Forward {
            let Ok(results) = out.convert(&mut Fetch(&mut self.0, extent));
            results
        }

        pub fn fetch<T: Copy>(&mut self, address: DeviceAddress, len: usize) -> Vec<T> {
            values_of(&self.0.download(address, len * size_of::<T>()))
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
            let Uploaded { batch, inputs, pair_inputs, out, .. } = &on;
            let loss = PairLossArguments { loss: &case.spec.loss, inputs: *pair_inputs, out: &out.pairs };
            let plan = plan::forward(&device, batch, inputs, &out.logps, Some(&loss), on.workspace);
            self.0.run(plan.unwrap());
            let (logps, pairs) = self.results(case, &on);
            self.check_logps_alone(batch, inputs, &logps);
            self.check_pair_loss_alone(case, &on, &pairs);

            let gradient = self.gradient_buffers(case, &on, &logps);
            self.0.run(plan::backward(&device, batch, inputs, &gradient).unwrap());
            let dlogits = self.fetch(on.gradient, case.logits.len());
            let gradient = self.gradient_status(&gradient);
            self.0.clear();
            Outcome { logps, pairs, dlogits, gradient, factored: false, precision: &KERNELS }
        }

        fn factored<T: Logit>(&mut self, case: &Case<T>) -> Outcome<T> {
            let device = self.0.properties();
            let on = self.upload(case);
            let Uploaded { batch, inputs, pair_inputs, out, gradient, workspace } = &on;
            let loss = PairLossArguments { loss: &case.spec.loss, inputs: *pair_inputs, out: &out.pairs };
            let plan = plan::factored(&device, batch, inputs, &out.logps, Some(&loss), *gradient, *workspace);
            self.0.run(plan.unwrap());
            let (logps, pairs) = self.results(case, &on);
            let dlogits = self.fetch(*gradient, case.logits.len());
            self.0.clear();
            Outcome {
                logps,
                pairs,
                dlogits,
                gradient: GradientStatus::default(),
                factored: true,
                precision: &KERNELS,
            }
        }
    }

    /// A case on the device, with room for its results.
    pub struct Uploaded {
        pub batch: Batch<DeviceArray>,
        pub inputs: Inputs,
        pub pair_inputs: DevicePairInputs,
        pub out: ForwardBuffers,
        pub gradient: DeviceAddress,
        pub workspace: DeviceAddress,
    }

    impl<D: Device> OnDevice<D> {
        pub fn upload<T: Logit>(&mut self, case: &Case<T>) -> Uploaded {
            let spec = &case.spec;
            let batch: Batch<DeviceArray> =
                case.batch().try_map_indices(|array| Ok(self.indices(array))).expect("uploads do not fail");
            let extent = batch.extent();
            let (label_type, labels) = match &case.labels {
                OwnedLabels::I32(labels) => (LabelType::I32, self.0.upload(bytes_of(labels), 0)),
                OwnedLabels::I64(labels) => (LabelType::I64, self.0.upload(bytes_of(labels), 0)),
            };
            let logits = self.0.upload(bytes_of(&case.logits), spec.phase);
            let pair_inputs = self.pair_inputs(&case.inputs());
            let mut unallocated = ForwardTensors::<Unallocated<f32>>::default();
            unallocated.logps.metrics =
                (spec.metrics != MetricsLevel::None).then(TokenMetricTensors::default);
            let Ok(mut out) = unallocated.convert(&mut Reserve(&mut self.0, extent));
            if spec.metrics == MetricsLevel::Entropy {
                out.logps.metrics = out.logps.metrics.map(|metrics| TokenMetricBuffers {
                    entropy: metrics.entropy,
                    ..TokenMetricBuffers::default()
                });
            }
            let gradient = match spec.gradient_phase {
                None => logits,
                Some(phase) => self.0.upload(bytes_of(&vec![untouched::<T>(); case.logits.len()]), phase),
            };
            // As an earlier launch might have left it: counters at zero, and anything behind them.
            let mut left = vec![0; plan::workspace_bytes(&batch).unwrap()];
            left[size_of::<DpoProgress>() + 4 * (extent.sequences + extent.rows)..].fill(0xff);
            let workspace = self.0.upload(&left, 0);
            let inputs = Inputs { dtype: T::DTYPE, logits, label_type, labels, window: None };
            Uploaded { batch, inputs, pair_inputs, out, gradient, workspace }
        }

        /// What `logps` and `pair_loss` have written.
        pub fn results<T: Logit>(&mut self, case: &Case<T>, on: &Uploaded) -> (Logps<f32>, PairOutputs<f32>) {
            let Uploaded { batch, out, workspace, .. } = on;
            let extent = batch.extent();
            // Counters and findings are back at zero, so a captured graph replays.
            let counters = size_of::<DpoProgress>() + 4 * (extent.sequences + extent.rows);
            assert!(self.0.download(*workspace, counters).iter().all(|&byte| byte == 0), "{:?}", case.spec);
            let Ok(results) = out.convert(&mut Fetch(&mut self.0, extent));
            let Forward { logps, pairs } = results;
            (logps, pairs)
        }

        /// What `backward` reads and writes, after `logps` and `pair_loss`.
        pub fn gradient_buffers<T: Logit>(
            &mut self,
            case: &Case<T>,
            on: &Uploaded,
            logps: &Logps<f32>,
        ) -> GradientBuffers {
            // Half of the upstream gradient comes from the device, half from the host.
            let upstream = self.0.upload(bytes_of(&[2.0f32]), 0);
            let own_coef = case.own_coef.as_ref().map(|values| self.0.upload(bytes_of(values), 0));
            let token_coef = case.token_factors(&logps.token_weights);
            GradientBuffers {
                logsumexp: on.out.logps.logsumexp.unwrap(),
                logsumexp_residual: on.out.logps.logsumexp_residual,
                coef: own_coef.or(on.out.pairs.coef),
                token_coef: token_coef.map(|values| self.0.upload(bytes_of(&values), 0)),
                entropy: case.entropy_coef.as_ref().map(|values| EntropyBuffers {
                    coef: self.0.upload(bytes_of(values), 0),
                    entropy: on
                        .out
                        .logps
                        .metrics
                        .and_then(|metrics| metrics.entropy)
                        .expect("it is asked for"),
                }),
                upstream: Some(upstream),
                upstream_scale: case.spec.upstream / 2.0,
                threshold: case.spec.threshold,
                nonfinite_row: Some(self.0.upload(bytes_of(&[DPO_NO_TROUBLE]), 0)),
                dlogits: on.gradient,
            }
        }

        pub fn gradient_status(&mut self, gradient: &GradientBuffers) -> GradientStatus {
            let [row]: [u32; 1] = self.fetch(gradient.nonfinite_row.unwrap(), 1).try_into().unwrap();
            GradientStatus { nonfinite_row: (row != DPO_NO_TROUBLE).then_some(row as usize) }
        }
    }

    impl<D: Device> OnDevice<D> {
        pub fn pair_inputs(&mut self, inputs: &PairInputs<'_, f32>) -> DevicePairInputs {
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
            let mut reserve = |bytes| Some(self.0.reserve(bytes));
            let out = LogpsBuffers {
                logps: reserve(4 * fused.logps.len()),
                status: reserve(size_of::<<Status as Record>::Device>()),
                metrics: all_metrics(fused).map(|_| TokenMetricBuffers {
                    mean: reserve(size_of::<<MeanTokenMetrics<f32> as Record>::Device>()),
                    ..TokenMetricBuffers::default()
                }),
                ..LogpsBuffers::default()
            };
            // Aligned to 4, as it may be.
            let workspace = self.0.upload(&vec![0; plan::workspace_bytes(batch).unwrap()], 4);
            let device = self.0.properties();
            self.0.run(plan::forward(&device, batch, inputs, &out, None, workspace).unwrap());
            let Ok(alone): Result<Logps, _> = out.convert(&mut Fetch(&mut self.0, batch.extent()));
            assert_eq!(bits(&alone.logps), bits(&fused.logps), "logps of `logps` alone, {batch:?}");
            if let (Some(alone), Some(fused)) = (&alone.metrics, all_metrics(fused)) {
                let (alone, fused) = (format!("{:?}", alone.mean), format!("{:?}", fused.mean));
                assert_eq!(alone, fused, "mean metrics of `logps` alone, {batch:?}");
            }
        }

        /// `pair_loss` as a launch of its own gives the bits that the fused pass gave.
        fn check_pair_loss_alone<T: Logit>(
            &mut self,
            case: &Case<T>,
            on: &Uploaded,
            fused: &PairOutputs<f32>,
        ) {
            let (extent, logps) = (on.batch.extent(), &on.out.logps);
            let status = self.0.reserve(size_of::<<Status as Record>::Device>());
            let unallocated = PairOutputTensors::<Unallocated<f32>>::default();
            let Ok(out) = unallocated.convert(&mut Reserve(&mut self.0, extent));
            let loss = PairLossArguments { loss: &case.spec.loss, inputs: on.pair_inputs, out: &out };
            let pairs: &Pairs<DeviceArray> = &on.batch.pairs;
            let plan =
                plan::pair_loss(pairs, extent.sequences, logps.logps.unwrap(), logps.scored, &loss, status);
            self.0.run(plan.unwrap());
            let Ok(alone): Result<PairOutputs, _> = out.convert(&mut Fetch(&mut self.0, extent));
            // Debug prints every bit of a number but a NaN's, which no launch promises.
            assert_eq!(format!("{alone:?}"), format!("{fused:?}"), "`pair_loss` alone, {:?}", case.spec);
        }
    }

    impl<D: Device> PairExecutor for OnDevice<D> {
        fn pair_loss(&mut self, call: &PairCall) -> (PairOutputs<f64>, Status) {
            let batch = call.batch();
            let batch: Batch<DeviceArray> =
                batch.try_map_indices(|array| Ok(self.indices(array))).expect("uploads do not fail");
            let (extent, inputs) = (batch.extent(), self.pair_inputs(&call.inputs()));
            let logps = self.0.upload(bytes_of(&call.logps), 0);
            let scored = call.scored.as_ref().map(|scored| self.0.upload(bytes_of(scored), 0));
            let status = self.0.reserve(size_of::<<Status as Record>::Device>());
            let unallocated = PairOutputTensors::<Unallocated<f32>>::default();
            let Ok(out) = unallocated.convert(&mut Reserve(&mut self.0, extent));
            let loss = PairLossArguments { loss: &call.loss, inputs, out: &out };
            let plan = plan::pair_loss(&batch.pairs, extent.sequences, logps, scored, &loss, status);
            self.0.run(plan.unwrap());
            let mut fetch = Fetch(&mut self.0, extent);
            let Ok(pairs): Result<PairOutputs, _> = out.convert(&mut fetch);
            let Ok(status) = fetch.record("status", &Some(status));
            self.0.clear();
            (widen(&pairs), status)
        }
    }

    /// A real GPU.
    pub struct Cuda {
        kernels: Kernels,
        context: Arc<CudaContext>,
        buffers: Vec<cudarc::driver::sys::CUdeviceptr>,
        /// What multiplies, instead of a plain product.
        products: Option<Arc<Products>>,
    }

    impl Cuda {
        /// The first device.
        pub fn open() -> Result<Self, Error> {
            let context = context(0)?;
            Ok(Cuda::with(&context, Kernels::new(&context)?))
        }

        /// A device with kernels loaded otherwise.
        pub fn with(context: &Arc<CudaContext>, kernels: Kernels) -> Self {
            Cuda { kernels, context: context.clone(), buffers: vec![], products: None }
        }
    }

    impl Cuda {
        /// With products by a library.
        pub fn multiplying_with(self, products: &Arc<Products>) -> Self {
            Cuda { products: Some(products.clone()), ..self }
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

        fn write(&mut self, address: DeviceAddress, bytes: &[u8]) {
            // SAFETY: the suite writes only to what it allocated.
            unsafe { cudarc::driver::result::memcpy_htod_sync(address, bytes) }.unwrap();
        }

        fn launch(&mut self, launch: &Launch) {
            // SAFETY: the suite's buffers have the documented sizes and live until `clear`.
            unsafe { self.kernels.launch(launch, std::ptr::null_mut()) }.unwrap();
            self.context.synchronize().unwrap();
        }

        fn product(&mut self, product: &Product) {
            let Some(products) = self.products.clone() else { return multiply(self, product) };
            let plan = Plan::from(vec![Step::Product(*product)]);
            // SAFETY: as in `launch`.
            unsafe { self.kernels.run_with(&plan, &products, std::ptr::null_mut()) }.unwrap();
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
