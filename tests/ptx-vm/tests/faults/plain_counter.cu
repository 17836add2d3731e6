// kind=GlobalRace grid=4 block=32
// A counter without an atomic.
struct Params { const float *in; float *out; float *scratch; unsigned *counter; float *freed; float *padded; long long n; };
extern "C" __global__ void run(const __grid_constant__ Params p) {
    if (threadIdx.x != 0) return;
#ifdef FIXED
    atomicAdd(p.counter, 1);
#else
    *p.counter = *p.counter + 1; // FAULT
#endif
}
