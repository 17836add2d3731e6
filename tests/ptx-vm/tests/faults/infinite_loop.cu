// kind=StepBudget grid=1 block=32
// A flag that nobody raises.
struct Params { const float *in; float *out; float *scratch; unsigned *counter; float *freed; float *padded; long long n; };
extern "C" __global__ void run(const __grid_constant__ Params p) {
#ifdef FIXED
    if (threadIdx.x == 0) atomicAdd(p.counter, 1);
    __syncwarp();
#endif
    while (*(volatile unsigned *)p.counter == 0) { // FAULT
    }
    p.out[threadIdx.x] = 1.0f;
}
