#!/bin/sh
# Makes a stand-in of the driver's library to link against on a machine without a driver, as CUDA's toolkit has one.
# Usage: scripts/cuda-stub.sh INCLUDE_FOLDER_WITH_CUDA_H OUT_FOLDER
# Programs ask for libcuda.so.1, which is the driver's, when they start; the file here is called libcuda.so, so that no loader
# takes it for that. Each function answers that it is a stub, should somebody rename it.
set -eu

mkdir -p "$2"
# After the preprocessor the functions have the names that they are exported under, such as cuMemAlloc_v2.
printf '#include <cuda.h>\n' | cc -E -P -I"$1" - | grep -o '\<cu[A-Z][A-Za-z0-9_]* *(' | tr -d ' (' | sort -u |
    sed 's/.*/int &(void) { return 34; } \/\/ CUDA_ERROR_STUB_LIBRARY/' |
    cc -x c -fno-builtin -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$2/libcuda.so" -
