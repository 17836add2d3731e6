#!/bin/sh
# Writes target/tools/cuda-env, which tells the build of candle's CUDA backend where nvcc and CUDA's libraries are. A toolkit
# of the machine is taken as it is; where there is none, pinned wheels make one under target/tools/cuda. Called by `make
# check-cuda` and `make train CUDA=1`.
set -eu

tools=$(pwd)/target/tools
env=$tools/cuda-env
mkdir -p "$tools"
: >"$env.new"

if ! PATH="${CUDA_HOME:-/usr/local/cuda}/bin:$PATH" command -v nvcc >/dev/null; then
    home=$tools/cuda/nvidia/cu13
    if [ ! -d "$tools/cuda" ]; then
        echo "installing nvcc, headers and libraries of CUDA 13.0 into target/tools/cuda (1.2 GB)"
        rm -rf "$tools/cuda.part"
        python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps \
            --target "$tools/cuda.part" \
            nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96 \
            nvidia-cuda-cccl==13.0.85 nvidia-cuda-nvrtc==13.0.88 nvidia-cublas==13.0.2.14 nvidia-curand==10.4.0.35
        lib=$tools/cuda.part/nvidia/cu13/lib
        # The wheels have only the names that a program asks for when it starts; a linker asks for these.
        for name in cublas cublasLt cudart curand nvrtc; do
            ln -s "$(basename "$lib/lib$name".so.*)" "$lib/lib$name.so"
        done
        scripts/cuda-stub.sh "$lib/../include" "$lib/stubs"
        mv "$tools/cuda.part" "$tools/cuda"
    fi
    # cudarc asks the nvcc on PATH for its version, candle's kernels are compiled by it, and both look for libraries here.
    cat >>"$env.new" <<END
export CUDA_HOME='$home'
export PATH="$home/bin:\$PATH"
export LD_LIBRARY_PATH="$home/lib\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
END
elif ! command -v nvcc >/dev/null; then
    echo "export PATH=\"\${CUDA_HOME:-/usr/local/cuda}/bin:\$PATH\"" >>"$env.new"
fi

# candle asks nvidia-smi for the architecture at hand; where there is none, H100's.
command -v nvidia-smi >/dev/null || echo "export CUDA_COMPUTE_CAP=\"\${CUDA_COMPUTE_CAP:-90}\"" >>"$env.new"

mv "$env.new" "$env"
