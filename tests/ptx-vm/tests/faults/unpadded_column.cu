// kind=Uninitialised grid=8 block=32
// The rows are 16 apart and 10 wide; what lies between nothing wrote.
struct Params { const float *in; float *out; float *scratch; unsigned *counter; float *freed; float *padded; long long n; };
extern "C" __global__ void run(const __grid_constant__ Params p) {
#ifdef FIXED
    const int columns = 10;
#else
    const int columns = 11;
#endif
    float sum = 0.0f;
    for (int c = threadIdx.x; c < columns; c += 32) sum += p.padded[blockIdx.x * 16 + c]; // FAULT
    p.out[blockIdx.x * 32 + threadIdx.x] = sum;
}
