// kind=Uninitialised grid=1 block=32
// An array of the thread of which one element is never written.
struct Params { const float *in; float *out; float *scratch; unsigned *counter; float *freed; float *padded; long long n; };
extern "C" __global__ void run(const __grid_constant__ Params p) {
    float values[4];
#ifdef FIXED
    values[3] = 0.0f;
#endif
    for (int k = 0; k < p.n % 3 + 2; ++k) values[k] = p.in[k];
    p.out[threadIdx.x] = values[threadIdx.x % 4]; // FAULT
}
