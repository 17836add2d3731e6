// kind=OutOfBounds grid=1 block=64 shared=256
// One element past the dynamic shared memory.
struct Params { const float *in; float *out; float *scratch; unsigned *counter; float *freed; float *padded; long long n; };
extern "C" __global__ void run(const __grid_constant__ Params p) {
    extern __shared__ float values[];
#ifdef FIXED
    const int at = threadIdx.x;
#else
    const int at = threadIdx.x + 1;
#endif
    values[at] = p.in[threadIdx.x]; // FAULT
    __syncthreads();
    p.out[threadIdx.x] = values[at];
}
