// kind=UseAfterFree arch=90 grid=2 block=32 cluster=2
// The shared memory of the neighbour block, which does not wait until it has been read.
struct Params { const float *in; float *out; float *scratch; unsigned *counter; float *freed; float *padded; long long n; };
extern "C" __global__ void run(const __grid_constant__ Params p) {
    __shared__ float value;
    if (threadIdx.x == 0) value = p.in[blockIdx.x];
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
    unsigned mine = (unsigned)__cvta_generic_to_shared(&value), theirs;
    asm volatile("mapa.shared::cluster.u32 %0, %1, 1;" : "=r"(theirs) : "r"(mine));
    if (blockIdx.x == 0) {
        // Long enough for the neighbour to end.
        float v = 0.0f;
        for (int k = 0; k < 3000; ++k)
            asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(v) : "r"(theirs) : "memory"); // FAULT
        p.out[threadIdx.x] = v;
    }
#ifdef FIXED
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
#endif
}
