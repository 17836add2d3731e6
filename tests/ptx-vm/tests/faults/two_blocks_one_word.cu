// kind=GlobalRace grid=4 block=32
// Every block writes the first word.
struct Params { const float *in; float *out; float *scratch; unsigned *counter; float *freed; float *padded; long long n; };
extern "C" __global__ void run(const __grid_constant__ Params p) {
#ifdef FIXED
    const int at = blockIdx.x;
#else
    const int at = 0;
#endif
    if (threadIdx.x == 0) p.out[at] = p.in[blockIdx.x]; // FAULT
}
