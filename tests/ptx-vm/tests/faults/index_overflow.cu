// kind=OutOfBounds grid=2 block=32
// row * stride passes 2^31 in an int.
struct Params { const float *in; float *out; float *scratch; unsigned *counter; float *freed; float *padded; long long n; };
extern "C" __global__ void run(const __grid_constant__ Params p) {
    const int row = 40000 + blockIdx.x;
    const int stride = int(p.n) * 100;
#ifdef FIXED
    const long long at = (long long)row * stride - 40000ll * stride;
#else
    const long long at = int(unsigned(row) * unsigned(stride)) - 40000ll * stride;
#endif
    if (blockIdx.x == 0) p.out[threadIdx.x] = p.in[at + threadIdx.x]; // FAULT
}
