// kind=UseAfterFree grid=1 block=32
// A buffer that the host has given back.
struct Params { const float *in; float *out; float *scratch; unsigned *counter; float *freed; float *padded; long long n; };
extern "C" __global__ void run(const __grid_constant__ Params p) {
#ifdef FIXED
    p.out[threadIdx.x] = p.in[threadIdx.x];
#else
    p.out[threadIdx.x] = p.freed[threadIdx.x]; // FAULT
#endif
}
