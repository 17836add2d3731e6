// kind=SharedRace grid=1 block=64
// The buffer is written again while others still read it.
struct Params { const float *in; float *out; float *scratch; unsigned *counter; float *freed; float *padded; long long n; };
extern "C" __global__ void run(const __grid_constant__ Params p) {
    __shared__ float values[64];
    float sum = 0.0f;
    for (int round = 0; round < 3; ++round) {
        values[threadIdx.x] = p.in[threadIdx.x + round];
        __syncthreads();
        sum += values[63 - threadIdx.x]; // FAULT
#ifdef FIXED
        __syncthreads();
#endif
    }
    p.out[threadIdx.x] = sum;
}
