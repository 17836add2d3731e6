// kind=SharedMemory grid=1 block=32
// More than 48 KiB in a static array.
struct Params { const float *in; float *out; float *scratch; unsigned *counter; float *freed; float *padded; long long n; };
extern "C" __global__ void run(const __grid_constant__ Params p) {
#ifdef FIXED
    __shared__ float values[12 << 10];
#else
    __shared__ float values[13 << 10];
#endif
    for (int k = threadIdx.x; k < sizeof(values) / 4; k += 32) values[k] = k;
    __syncthreads();
    p.out[threadIdx.x] = values[threadIdx.x * 32 + p.n % 2];
}
