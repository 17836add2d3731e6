// kind=SharedRace grid=1 block=64
// A value from the other warp, without waiting for it.
struct Params { const float *in; float *out; float *scratch; unsigned *counter; float *freed; float *padded; long long n; };
extern "C" __global__ void run(const __grid_constant__ Params p) {
    __shared__ float values[64];
    values[threadIdx.x] = p.in[threadIdx.x];
#ifdef FIXED
    __syncthreads();
#endif
    p.out[threadIdx.x] = values[threadIdx.x ^ 32]; // FAULT
}
