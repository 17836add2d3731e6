// kind=BarrierDivergence grid=1 block=64
// The second warp has ended when the first waits.
struct Params { const float *in; float *out; float *scratch; unsigned *counter; float *freed; float *padded; long long n; };
extern "C" __global__ void run(const __grid_constant__ Params p) {
    __shared__ float values[32];
#ifndef FIXED
    if (threadIdx.x >= 32) return;
#endif
    if (threadIdx.x < 32) values[threadIdx.x] = p.in[threadIdx.x];
    __syncthreads(); // FAULT
    if (threadIdx.x < 32) p.out[threadIdx.x] = values[31 - threadIdx.x];
}
