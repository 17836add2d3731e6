// kind=Trap grid=1 block=32
// An assertion that fails.
struct Params { const float *in; float *out; float *scratch; unsigned *counter; float *freed; float *padded; long long n; };
extern "C" __global__ void run(const __grid_constant__ Params p) {
#ifndef FIXED
    if (p.n > 10) __trap(); // FAULT
#endif
    p.out[threadIdx.x] = 1.0f;
}
