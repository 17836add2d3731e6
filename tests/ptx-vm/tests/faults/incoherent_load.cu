// kind=Incoherent grid=1 block=32
// A load through the read-only cache of what the kernel itself writes.
struct Params { const float *in; float *out; float *scratch; unsigned *counter; float *freed; float *padded; long long n; };
extern "C" __global__ void run(const __grid_constant__ Params p) {
    p.scratch[threadIdx.x] = p.in[threadIdx.x];
    __syncwarp();
    const float *from = p.scratch + (threadIdx.x ^ 1);
    float v;
#ifdef FIXED
    asm volatile("ld.global.f32 %0, [%1];" : "=f"(v) : "l"(from));
#else
    asm volatile("ld.global.nc.f32 %0, [%1];" : "=f"(v) : "l"(from)); // FAULT
#endif
    p.out[threadIdx.x] = v;
}
