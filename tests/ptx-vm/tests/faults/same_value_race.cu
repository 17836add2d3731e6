// kind=SharedRace grid=1 block=64
// All threads set a flag to the same value: still a race.
struct Params { const float *in; float *out; float *scratch; unsigned *counter; float *freed; float *padded; long long n; };
extern "C" __global__ void run(const __grid_constant__ Params p) {
    __shared__ int flag;
#ifdef FIXED
    if (threadIdx.x == 0)
#endif
        asm volatile("st.shared.u32 [%0], 1;" ::"r"((unsigned)__cvta_generic_to_shared(&flag)) : "memory"); // FAULT
    __syncthreads();
    p.out[threadIdx.x] = flag;
}
