// kind=Uninitialised grid=1 block=32
// An asynchronous copy is read before it has come.
struct Params { const float *in; float *out; float *scratch; unsigned *counter; float *freed; float *padded; long long n; };
extern "C" __global__ void run(const __grid_constant__ Params p) {
    __shared__ __align__(16) float values[128];
    const unsigned to = (unsigned)__cvta_generic_to_shared(values + 4 * threadIdx.x);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(p.in + 4 * threadIdx.x) : "memory");
    asm volatile("cp.async.commit_group;" ::: "memory");
#ifdef FIXED
    asm volatile("cp.async.wait_group 0;" ::: "memory");
#endif
    p.out[threadIdx.x] = values[4 * threadIdx.x + 2]; // FAULT
}
