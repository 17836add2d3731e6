// kind=OutOfBounds grid=16 block=64
// One element too many at the tail.
struct Params { const float *in; float *out; float *scratch; unsigned *counter; float *freed; float *padded; long long n; };
extern "C" __global__ void run(const __grid_constant__ Params p) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
#ifdef FIXED
    if (i < p.n)
#else
    if (i <= p.n)
#endif
        p.out[i] = 2.0f * p.in[i]; // FAULT
}
