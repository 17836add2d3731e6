// kind=BarrierDivergence grid=1 block=64
// Half of the first warp does not come to the barrier.
struct Params { const float *in; float *out; float *scratch; unsigned *counter; float *freed; float *padded; long long n; };
extern "C" __global__ void run(const __grid_constant__ Params p) {
    __shared__ float values[64];
    values[threadIdx.x] = p.in[threadIdx.x];
#ifndef FIXED
    if (threadIdx.x >= 16)
#endif
        __syncthreads(); // FAULT
    if (threadIdx.x >= 32) p.out[threadIdx.x] = values[threadIdx.x ^ 32];
}
