// kind=Uninitialised grid=1 block=32
// A register that nothing wrote.
struct Params { const float *in; float *out; float *scratch; unsigned *counter; float *freed; float *padded; long long n; };
extern "C" __global__ void run(const __grid_constant__ Params p) {
    float sum;
#ifdef FIXED
    asm("{ .reg .f32 t; mov.f32 t, 0f00000000; add.f32 %0, t, %1; }" : "=f"(sum) : "f"(p.in[threadIdx.x]));
#else
    asm("{ .reg .f32 t; add.f32 %0, t, %1; }" : "=f"(sum) : "f"(p.in[threadIdx.x])); // FAULT
#endif
    p.out[threadIdx.x] = sum;
}
