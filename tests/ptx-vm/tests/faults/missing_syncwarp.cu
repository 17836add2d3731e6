// kind=SharedRace grid=1 block=32
// Lanes of one warp are not in step unless something keeps them so.
struct Params { const float *in; float *out; float *scratch; unsigned *counter; float *freed; float *padded; long long n; };
extern "C" __global__ void run(const __grid_constant__ Params p) {
    __shared__ float values[32];
    values[threadIdx.x] = p.in[threadIdx.x];
#ifdef FIXED
    __syncwarp();
#endif
    p.out[threadIdx.x] = values[threadIdx.x ^ 1]; // FAULT
}
