// kind=GlobalRace grid=4 block=32
// The block of the highest number is not the last to finish.
struct Params { const float *in; float *out; float *scratch; unsigned *counter; float *freed; float *padded; long long n; };
extern "C" __global__ void run(const __grid_constant__ Params p) {
    __shared__ bool last;
    p.scratch[blockIdx.x * 32 + threadIdx.x] = p.in[threadIdx.x];
    __threadfence();
    __syncthreads();
#ifdef FIXED
    if (threadIdx.x == 0) last = atomicAdd(p.counter, 1) == gridDim.x - 1;
#else
    if (threadIdx.x == 0) last = blockIdx.x == gridDim.x - 1;
#endif
    __syncthreads();
    if (!last) return;
    __threadfence();
    float sum = 0.0f;
    for (int b = 0; b < gridDim.x; ++b) sum += p.scratch[b * 32 + threadIdx.x]; // FAULT
    p.out[threadIdx.x] = sum;
}
