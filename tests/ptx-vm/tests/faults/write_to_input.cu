// kind=ReadOnly grid=1 block=32
// A kernel that modifies its input.
struct Params { const float *in; float *out; float *scratch; unsigned *counter; float *freed; float *padded; long long n; };
extern "C" __global__ void run(const __grid_constant__ Params p) {
#ifdef FIXED
    float *to = p.out;
#else
    float *to = const_cast<float *>(p.in);
#endif
    to[threadIdx.x] = 1.0f; // FAULT
}
