#!/bin/sh
# Writes target/tools/env, which tells the build where NVRTC and libclang are. What the machine has is taken; what it
# lacks is installed as a pinned wheel under target/tools, which touches nothing else.
set -eu

tools=$(pwd)/target/tools
mkdir -p "$tools"
: >"$tools/env.new"

wheel() { # folder, package==version
    [ -d "$tools/$1" ] || {
        echo "installing $2 into target/tools/$1"
        python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore \
            --no-deps --target "$tools/$1.part" "$2"
        mv "$tools/$1.part" "$tools/$1"
    }
}

first() { # the first of the given files that exists
    for file in "$@"; do
        [ -e "$file" ] && echo "$file" && return
    done
    return 0
}

# build.rs finds a toolkit by itself; only its absence matters here.
if [ -z "${DPO_NVRTC:-}" ]; then
    toolkit=$(first "${CUDA_HOME:-/nowhere}"/lib64/libnvrtc.so* "${CUDA_PATH:-/nowhere}"/lib64/libnvrtc.so* \
        /usr/local/cuda/lib64/libnvrtc.so*)
    if [ -z "$toolkit" ]; then
        wheel nvrtc nvidia-cuda-nvrtc-cu12==12.9.86
        echo "export DPO_NVRTC='$tools/nvrtc'" >>"$tools/env.new"
    fi
fi

# Only the test that compares src/cuda/params.rs with a fresh run of bindgen needs libclang.
if [ -z "${LIBCLANG_PATH:-}" ]; then
    clang=$(first /usr/lib/llvm-*/lib/libclang.so* /usr/lib/llvm-*/lib/libclang-[0-9]* /usr/lib64/libclang.so* \
        /usr/lib/*/libclang.so* /usr/lib/*/libclang-[0-9]*)
    if [ -z "$clang" ]; then
        wheel libclang libclang==18.1.1
        echo "export LIBCLANG_PATH='$tools/libclang/clang/native'" >>"$tools/env.new"
    fi
fi

# The disassembler that reads the kernels' machine code; of any recent version.
if [ -z "${DPO_NVDISASM:-}" ]; then
    nvdisasm=$(first "${CUDA_HOME:-/nowhere}/bin/nvdisasm" "${CUDA_PATH:-/nowhere}/bin/nvdisasm" \
        /usr/local/cuda/bin/nvdisasm)
    if [ -z "$nvdisasm" ]; then
        wheel nvdisasm nvidia-cuda-nvdisasm==13.5.37
        nvdisasm=$(first "$tools"/nvdisasm/nvidia/*/bin/nvdisasm)
    fi
    echo "export DPO_NVDISASM='$nvdisasm'" >>"$tools/env.new"
fi

mv "$tools/env.new" "$tools/env"
