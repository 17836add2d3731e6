// kind=SharedRace arch=90 grid=4 block=32 cluster=2
// The shared memory of the neighbour block, without waiting for it.
struct Params { const float *in; float *out; float *scratch; unsigned *counter; float *freed; float *padded; long long n; };
extern "C" __global__ void run(const __grid_constant__ Params p) {
    __shared__ float value;
    if (threadIdx.x == 0) value = p.in[blockIdx.x];
#ifdef FIXED
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
#endif
    unsigned rank, mine = (unsigned)__cvta_generic_to_shared(&value), theirs;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(theirs) : "r"(mine), "r"(rank ^ 1));
    float v = 0.0f;
    if (threadIdx.x == 0) {
        asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(v) : "r"(theirs) : "memory"); // FAULT
        p.out[blockIdx.x] = v;
    }
#ifdef FIXED
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
#endif
}
