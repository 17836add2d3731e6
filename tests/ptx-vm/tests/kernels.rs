//! Whole kernels against what they should compute, across schedules and thread counts.

mod common;

use ptx_vm::{FaultKind, Launch, Module, Options, Placement, Vm};

fn bytes<T: Copy>(values: &[T], to: impl Fn(T) -> Vec<u8>) -> Vec<u8> {
    values.iter().flat_map(|&value| to(value)).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four bytes"))).collect()
}

/// Sums a vector with everything at once: shared memory, shuffles, fence and counter, the last block.
const SUM: &str = r#"
struct Params { const float *x; float *partials; float *out; unsigned *done; long long n; };
extern "C" __global__ void sum(const __grid_constant__ Params p) {
    __shared__ float warps[32];
    __shared__ bool last;
    float s = 0.0f;
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < p.n; i += (long long)gridDim.x * blockDim.x)
        s += p.x[i];
    for (int o = 16; o; o >>= 1) s += __shfl_down_sync(~0u, s, o);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = s;
    __syncthreads();
    if (threadIdx.x == 0) {
        float t = 0.0f;
        for (int w = 0; w < blockDim.x / 32; ++w) t += warps[w];
        p.partials[blockIdx.x] = t;
        __threadfence();
        last = atomicAdd(p.done, 1) == gridDim.x - 1;
        __threadfence();
    }
    __syncthreads();
    if (!last) return;
    if (threadIdx.x == 0) {
        float t = 0.0f;
        for (int b = 0; b < gridDim.x; ++b) t += p.partials[b];
        *p.out = t;
        *p.done = 0;
    }
}
"#;

#[test]
fn sum_of_a_vector_in_every_schedule() {
    let module =
        Module::parse(&common::compile("sum.cu", SUM, &["--gpu-architecture=compute_80"])).expect("parses");
    let values: Vec<f32> = (0..10_000).map(|i| (i % 7) as f32).collect();
    let expected: f32 = values.iter().sum();
    for (schedule_seed, threads) in [(0, 1), (1, 2), (2, 4), (3, 1)] {
        let mut vm = Vm::new(Options { schedule_seed, threads, ..Options::default() });
        let x =
            vm.memory.alloc(&bytes(&values, |v| v.to_le_bytes().to_vec()), Placement::named("x").read_only());
        let partials = vm.memory.alloc_uninit(4 * 20, Placement::named("partials"));
        let out = vm.memory.alloc_uninit(4, Placement::named("out"));
        let done = vm.memory.alloc(&[0; 4], Placement::named("done"));
        let params = bytes(&[x, partials, out, done, values.len() as u64], |v| v.to_le_bytes().to_vec());
        // Twice: the counter is left ready for the next launch.
        for _ in 0..2 {
            let stats = vm
                .launch(&module, &Launch::new("sum", 20, 128, &params))
                .unwrap_or_else(|fault| panic!("{fault}"));
            assert_eq!(stats.kernels["sum"].blocks, 20);
            assert_eq!(floats(&vm.memory.read(out, 4).expect("written")), [expected]);
        }
    }
}

/// Calls, tables, local arrays, doubles and block-wide votes.
const MIXED: &str = r#"
struct Params { const int *x; double *out; };
__constant__ float table[4] = {1.0f, 2.5f, -3.0f, 0.125f};
__device__ int calls = 0;
__device__ __noinline__ float2 weigh(float a, float2 b) { return make_float2(a * b.x, a + b.y); }
extern "C" __global__ void mixed(const __grid_constant__ Params p) {
    extern __shared__ float scratch[];
    float local[8];
    const int x = p.x[threadIdx.x];
    for (int i = 0; i < 8; ++i) local[(i + x) & 7] = float(i * x);
    scratch[threadIdx.x] = local[x & 7 ^ 5];
    const int any = __syncthreads_or(x == 77);
    const int count = __syncthreads_count(x % 3 == 0);
    const float2 w = weigh(scratch[threadIdx.x ^ 33], make_float2(table[x & 3], float(count)));
    atomicAdd(&calls, 1);
    p.out[threadIdx.x] = double(w.x) / 3.0 + w.y + any;
}
"#;

#[test]
fn calls_tables_and_local_arrays() {
    let module = Module::parse(&common::compile("mixed.cu", MIXED, &["--gpu-architecture=compute_80"]))
        .expect("parses");
    let mut vm = Vm::default();
    let values: Vec<i32> = (0..64).map(|i| i * 11 % 97).collect();
    let x = vm.memory.alloc(&bytes(&values, |v| v.to_le_bytes().to_vec()), Placement::named("x").read_only());
    let out = vm.memory.alloc_uninit(64 * 8, Placement::named("out"));
    let params = bytes(&[x, out], |v| v.to_le_bytes().to_vec());
    let launch = Launch::new("mixed", 1, 64, &params).shared(64 * 4);
    vm.launch(&module, &launch).unwrap_or_else(|fault| panic!("{fault}"));
    let local = |x: i32| ((((x & 7) ^ 5) - x).rem_euclid(8) * x) as f32;
    let table = [1.0f32, 2.5, -3.0, 0.125];
    let count = values.iter().filter(|&&x| x % 3 == 0).count() as f32;
    let any = f64::from(u8::from(values.contains(&77)));
    let result = vm.memory.read(out, 64 * 8).expect("written");
    for (thread, chunk) in result.chunks_exact(8).enumerate() {
        let a = local(values[thread ^ 33]);
        let expected = f64::from(a * table[(values[thread] & 3) as usize]) / 3.0 + f64::from(a + count) + any;
        assert_eq!(f64::from_le_bytes(chunk.try_into().expect("eight bytes")), expected, "thread {thread}");
    }
    let calls = vm.symbol(&module, "calls").expect("a variable of the module");
    assert_eq!(vm.memory.read(calls, 4).expect("it has a value"), 64u32.to_le_bytes());
}

/// A row of bf16 to its largest element's exponential sum, and scaled copies of it.
const ROW: &str = r#"
struct Params { const uint4 *x; uint4 *y; float *sum; int vectors; };
__device__ float ex2(float x) { float r; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x)); return r; }
extern "C" __global__ void forward(const __grid_constant__ Params p) {
    __shared__ float sums[32];
    float s = 0.0f;
    for (int j = threadIdx.x; j < p.vectors; j += blockDim.x) {
        const uint4 v = __ldcs(p.x + j);
        const unsigned w[4] = {v.x, v.y, v.z, v.w};
        for (int k = 0; k < 4; ++k) s += ex2(__uint_as_float(w[k] << 16)) + ex2(__uint_as_float(w[k] & 0xffff0000u));
    }
    for (int o = 16; o; o >>= 1) s += __shfl_xor_sync(~0u, s, o);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = s;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int w = 1; w < blockDim.x / 32; ++w) s += sums[w];
        *p.sum = s;
    }
}
extern "C" __global__ void backward(const __grid_constant__ Params p) {
    const float scale = 1.0f / *p.sum;
    for (int j = threadIdx.x; j < p.vectors; j += blockDim.x) {
        const uint4 v = __ldcs(p.x + j);
        unsigned w[4] = {v.x, v.y, v.z, v.w};
        for (int k = 0; k < 4; ++k) {
            const float low = ex2(__uint_as_float(w[k] << 16)) * scale, high = ex2(__uint_as_float(w[k] & 0xffff0000u)) * scale;
            asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(w[k]) : "f"(high), "f"(low));
        }
        __stcs(p.y + j, make_uint4(w[0], w[1], w[2], w[3]));
    }
}
"#;

#[test]
fn a_row_of_a_large_vocabulary_takes_little_time() {
    const VOCAB: usize = 151_936;
    let module =
        Module::parse(&common::compile("row.cu", ROW, &["--gpu-architecture=compute_80"])).expect("parses");
    let mut vm = Vm::default();
    let row: Vec<half::bf16> =
        (0..VOCAB).map(|i| half::bf16::from_f32((i * 7919 % 1000) as f32 / 125.0 - 4.0)).collect();
    let x = vm.memory.alloc(&bytes(&row, |v| v.to_le_bytes().to_vec()), Placement::named("x").read_only());
    let y = vm.memory.alloc_uninit(VOCAB * 2, Placement::named("y"));
    let sum = vm.memory.alloc_uninit(4, Placement::named("sum"));
    let params = bytes(&[x, y, sum, (VOCAB / 8) as u64], |v| v.to_le_bytes().to_vec());
    let start = std::time::Instant::now();
    let mut instructions = 0;
    for kernel in ["forward", "backward"] {
        let launch = Launch::new(kernel, 1, 512, &params);
        instructions += vm.launch(&module, &launch).unwrap_or_else(|fault| panic!("{fault}")).instructions();
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{:.0} million instructions per second", instructions as f64 / seconds / 1e6);
    assert!(seconds < 3.0, "{seconds} s");
    let total: f64 = row.iter().map(|v| v.to_f64().exp2()).sum();
    let [computed] = floats(&vm.memory.read(sum, 4).expect("written"))[..] else { panic!("one sum") };
    // 298 terms a thread, then 5 shuffles and 16 warps: each addition is off by half a unit at most.
    assert!((f64::from(computed) / total - 1.0).abs() < 320.0 * 2f64.powi(-24));
    let scaled = vm.memory.read(y, VOCAB * 2).expect("every element is written");
    for (element, v) in scaled.chunks_exact(2).zip(&row) {
        let scaled = half::bf16::from_le_bytes(element.try_into().expect("two bytes")).to_f64();
        assert!((scaled * total / v.to_f64().exp2() - 1.0).abs() < 2f64.powi(-8) * 1.01);
    }
}

/// A kernel around a few instructions that find the address of `data` in %rd1.
fn small(body: &str) -> Module {
    let ptx = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 data) {{\n\
        .reg .pred %p<4>; .reg .b32 %r<8>; .reg .b64 %rd<8>; ld.param.u64 %rd1, [data];\n{body}\nret;\n}}"
    );
    Module::parse(&ptx).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn padding_may_be_loaded_but_not_used() {
    let run = |body: &str| {
        let mut vm = Vm::default();
        let data = vm.memory.alloc_uninit(64, Placement::named("data"));
        vm.memory.write(data, &[7; 6]).expect("in bounds");
        vm.launch(&small(body), &Launch::new("k", 1, 1, &data.to_le_bytes()))
            .map(drop)
            .map_err(|fault| fault.kind)
    };
    let load = "ld.global.v2.u32 {%r1, %r2}, [%rd1];";
    // Bytes 4 and 5 have a value, 6 and 7 have none.
    for fine in [
        "and.b32 %r2, %r2, 0xffff; st.global.u32 [%rd1+16], %r2;",
        "shl.b32 %r2, %r2, 16; st.global.u32 [%rd1+16], %r2;",
        "shf.r.wrap.b32 %r3, %r1, %r2, 16; st.global.u32 [%rd1+16], %r3;",
        "prmt.b32 %r3, %r1, %r2, 0x5410; st.global.u32 [%rd1+16], %r3;",
        "bfe.u32 %r3, %r2, 8, 8; st.global.u32 [%rd1+16], %r3;",
        "setp.eq.u32 %p1, %r1, 0; selp.b32 %r3, %r2, %r1, %p1; st.global.u32 [%rd1+16], %r3;",
        "add.u32 %r3, %r2, 1; mov.u32 %r3, 5; st.global.u32 [%rd1+16], %r3;",
        "or.b32 %r3, %r2, 0xffff0000; st.global.u32 [%rd1+16], %r3;",
    ] {
        assert_eq!(run(&format!("{load} {fine}")), Ok(()), "{fine}");
    }
    for wrong in [
        "st.global.u32 [%rd1+16], %r2;",
        "add.u32 %r3, %r2, 1; st.global.u16 [%rd1+16], %r3;",
        "shr.u32 %r3, %r2, 8; st.global.u32 [%rd1+16], %r3;",
        "setp.eq.u32 %p1, %r2, 0; @%p1 ret;",
        "cvt.u64.u32 %rd2, %r2; add.u64 %rd1, %rd1, %rd2; ld.global.u8 %r1, [%rd1];",
        "setp.eq.u32 %p1, %r2, 0; selp.b32 %r3, 1, 2, %p1; st.global.u32 [%rd1+16], %r3;",
    ] {
        assert_eq!(run(&format!("{load} {wrong}")), Err(FaultKind::Uninitialised), "{wrong}");
    }
}

#[test]
fn what_an_atomic_guards() {
    // A lock-free hand-over between blocks, with the order in the instructions themselves.
    let hand_over = |publish: &str, observe: &str| {
        let body = format!(
            "mov.u32 %r1, %ctaid.x; setp.ne.u32 %p1, %r1, 0; @%p1 bra READ;\n\
            st.global.u32 [%rd1+16], 5; {publish} ret;\n\
            READ: {observe} setp.eq.u32 %p2, %r2, 0; @%p2 ret; ld.global.u32 %r3, [%rd1+16];"
        );
        let mut vm = Vm::default();
        let data = vm.memory.alloc(&[0; 64], Placement::named("data"));
        vm.launch(&small(&body), &Launch::new("k", 2, 1, &data.to_le_bytes()))
            .map(drop)
            .map_err(|fault| fault.kind)
    };
    let fence = "fence.acq_rel.gpu;";
    let relaxed = ("atom.global.add.u32 %r2, [%rd1], 1;", "atom.global.add.u32 %r2, [%rd1], 0;");
    let ordered = ("st.release.gpu.global.u32 [%rd1], 1;", "ld.acquire.gpu.global.u32 %r2, [%rd1];");
    assert_eq!(hand_over(&format!("{fence} {}", relaxed.0), &format!("{} {fence}", relaxed.1)), Ok(()));
    assert_eq!(hand_over(ordered.0, ordered.1), Ok(()));
    assert_eq!(hand_over(&format!("{fence} red.global.add.u32 [%rd1], 1;"), ordered.1), Ok(()));
    assert_eq!(hand_over(relaxed.0, &format!("{} {fence}", relaxed.1)), Err(FaultKind::GlobalRace));
    assert_eq!(hand_over(&format!("{fence} {}", relaxed.0), relaxed.1), Err(FaultKind::GlobalRace));
    assert_eq!(
        hand_over(&format!("membar.cta; {}", relaxed.0), &format!("{} {fence}", relaxed.1)),
        Err(FaultKind::GlobalRace)
    );
    assert_eq!(hand_over("st.volatile.global.u32 [%rd1], 1;", ordered.1), Err(FaultKind::GlobalRace));
}

#[test]
fn launches_that_are_not_possible() {
    let module = small("");
    let launch =
        |launch: &Launch<'_>| Vm::default().launch(&module, launch).map(drop).map_err(|fault| fault.kind);
    let params = [0; 8];
    let fine = Launch::new("k", 2, 64, &params);
    assert_eq!(launch(&fine), Ok(()));
    for bad in [
        Launch { kernel: "none", ..fine.clone() },
        Launch { grid: [0, 1, 1], ..fine.clone() },
        Launch { grid: [1, 65536, 1], ..fine.clone() },
        Launch { block: [1025, 1, 1], ..fine.clone() },
        Launch { params: &params[..4], ..fine.clone() },
        fine.clone().cluster(2),
    ] {
        assert_eq!(launch(&bad), Err(FaultKind::BadLaunch), "{bad:?}");
    }
    assert_eq!(launch(&fine.clone().shared(163 << 10)), Ok(()));
    assert_eq!(launch(&fine.clone().shared((163 << 10) + 1)), Err(FaultKind::SharedMemory));
}
