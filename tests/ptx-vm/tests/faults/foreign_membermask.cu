// kind=WarpDivergence grid=1 block=32
// A lane that its own membermask does not name.
struct Params { const float *in; float *out; float *scratch; unsigned *counter; float *freed; float *padded; long long n; };
extern "C" __global__ void run(const __grid_constant__ Params p) {
#ifdef FIXED
    const unsigned members = 0xffffffffu;
#else
    const unsigned members = 0x0000ffffu;
#endif
    p.out[threadIdx.x] = __shfl_sync(members, p.in[threadIdx.x], 0); // FAULT
}
