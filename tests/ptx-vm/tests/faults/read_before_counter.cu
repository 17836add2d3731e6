// kind=GlobalRace grid=4 block=32
// The others' results are read before the counter says that they are there.
struct Params { const float *in; float *out; float *scratch; unsigned *counter; float *freed; float *padded; long long n; };
extern "C" __global__ void run(const __grid_constant__ Params p) {
    __shared__ bool last;
    p.scratch[blockIdx.x * 32 + threadIdx.x] = p.in[threadIdx.x];
    __threadfence();
    __syncthreads();
    float sum = 0.0f;
#ifndef FIXED
    for (int b = 0; b < gridDim.x; ++b) sum += p.scratch[b * 32 + threadIdx.x]; // FAULT
#endif
    if (threadIdx.x == 0) last = atomicAdd(p.counter, 1) == gridDim.x - 1;
    __syncthreads();
    if (!last) return;
    __threadfence();
#ifdef FIXED
    for (int b = 0; b < gridDim.x; ++b) sum += p.scratch[b * 32 + threadIdx.x];
#endif
    p.out[threadIdx.x] = sum;
}
