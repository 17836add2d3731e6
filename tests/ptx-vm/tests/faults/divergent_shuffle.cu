// kind=WarpDivergence grid=1 block=32
// A shuffle of the whole warp that half of it does not reach.
struct Params { const float *in; float *out; float *scratch; unsigned *counter; float *freed; float *padded; long long n; };
extern "C" __global__ void run(const __grid_constant__ Params p) {
    float v = p.in[threadIdx.x];
#ifdef FIXED
    v += __shfl_xor_sync(0xffffffffu, v, 1);
#else
    if (threadIdx.x < 16) v += __shfl_xor_sync(0xffffffffu, v, 1); // FAULT
#endif
    p.out[threadIdx.x] = v;
}
