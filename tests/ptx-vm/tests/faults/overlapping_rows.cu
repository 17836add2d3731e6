// kind=GlobalRace grid=4 block=32
// Rows of 33 elements in a buffer of rows of 32.
struct Params { const float *in; float *out; float *scratch; unsigned *counter; float *freed; float *padded; long long n; };
extern "C" __global__ void run(const __grid_constant__ Params p) {
#ifdef FIXED
    const int columns = 32;
#else
    const int columns = 33;
#endif
    for (int c = threadIdx.x; c < columns; c += 32) p.out[blockIdx.x * 32 + c] = p.in[c]; // FAULT
}
