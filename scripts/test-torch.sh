#!/bin/sh
# Builds the wheel of integrations/torch, installs it beside PyTorch, transformers, TRL and PEFT, pinned, in a virtual
# environment under target/torch, which is kept, and runs the package's tests there. Called by `make test-torch`; arguments go to
# pytest. With `wheel` as its only argument it builds the wheel in target/torch/wheels and stops.
set -eu

package=integrations/torch
out=$(pwd)/target/torch
mkdir -p "$out"

if [ "${1:-}" = wheel ]; then
    rm -rf "$out/wheels"
    python3 -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$out/wheels" "./$package"
    ls "$out/wheels"/*.whl
    exit
fi

if ! cmp -s $package/requirements-test.txt "$out/venv/installed.txt"; then
    echo "installing $package/requirements-test.txt into $out/venv" >&2
    rm -rf "$out/venv"
    python3 -m venv "$out/venv"
    "$out/venv/bin/python" -m pip install --quiet --disable-pip-version-check -r $package/requirements-test.txt
    cp $package/requirements-test.txt "$out/venv/installed.txt"
fi

# Kernels take minutes to compile; they are wanted where they can run.
if [ -z "${DPO_KERNELS_CUDA:-}" ] && ! nvidia-smi -L >/dev/null 2>&1; then
    export DPO_KERNELS_CUDA=0
fi
rm -rf "$out/wheels"
"$out/venv/bin/python" -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation \
    --wheel-dir "$out/wheels" "./$package"
"$out/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall "$out"/wheels/*.whl

# What is tested is the wheel, not the sources beside the tests. What torch.compile makes is kept: the second run starts sooner.
export TORCHINDUCTOR_CACHE_DIR="$out/inductor"
cd $package
exec "$out/venv/bin/python" -m pytest --quiet --numprocesses 2 "$@"
