// kind=Uninitialised grid=1 block=64
// Half of the buffer is never filled.
struct Params { const float *in; float *out; float *scratch; unsigned *counter; float *freed; float *padded; long long n; };
extern "C" __global__ void run(const __grid_constant__ Params p) {
    __shared__ float values[64];
#ifndef FIXED
    if (threadIdx.x < 32)
#endif
        values[threadIdx.x] = p.in[threadIdx.x];
    __syncthreads();
    p.out[threadIdx.x] = 1.0f + values[63 - threadIdx.x]; // FAULT
}
