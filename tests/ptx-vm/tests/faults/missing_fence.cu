// kind=GlobalRace grid=4 block=32
// The last block reads what the others may not have made visible.
struct Params { const float *in; float *out; float *scratch; unsigned *counter; float *freed; float *padded; long long n; };
extern "C" __global__ void run(const __grid_constant__ Params p) {
    __shared__ bool last;
    p.scratch[blockIdx.x * 32 + threadIdx.x] = p.in[threadIdx.x];
#ifdef FIXED
    __threadfence();
#endif
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(p.counter, 1) == gridDim.x - 1;
        __threadfence();
    }
    __syncthreads();
    if (!last) return;
    float sum = 0.0f;
    for (int b = 0; b < gridDim.x; ++b) sum += p.scratch[b * 32 + threadIdx.x]; // FAULT
    p.out[threadIdx.x] = sum;
}
