// kind=Uninitialised grid=1 block=32
// An accumulator that nothing set to zero.
struct Params { const float *in; float *out; float *scratch; unsigned *counter; float *freed; float *padded; long long n; };
extern "C" __global__ void run(const __grid_constant__ Params p) {
#ifdef FIXED
    p.out[threadIdx.x] = 0.0f;
#endif
    p.out[threadIdx.x] += p.in[threadIdx.x]; // FAULT
}
