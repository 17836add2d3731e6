// kind=Misaligned grid=1 block=32
// A vector load from a row that starts off the boundary of the vector.
struct Params { const float *in; float *out; float *scratch; unsigned *counter; float *freed; float *padded; long long n; };
extern "C" __global__ void run(const __grid_constant__ Params p) {
#ifdef FIXED
    const float *row = p.in + 4;
#else
    const float *row = p.in + 1;
#endif
    const float4 v = reinterpret_cast<const float4 *>(row)[threadIdx.x]; // FAULT
    p.out[threadIdx.x] = v.x + v.y + v.z + v.w;
}
