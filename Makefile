# make train   a DPO run on real text (CPU; CUDA=1 for a GPU), results in target/train/
# make test    everything that can be tested here
# make help    the rest

CARGO ?= cargo
# Where NVRTC and libclang are; installed under target/tools where the machine has none.
TOOLS := target/tools/env
WITH_TOOLS = . ./$(TOOLS) &&
# Where nvcc and CUDA's libraries are, for candle's CUDA backend; installed likewise.
CUDA_TOOLS := target/tools/cuda-env
WITH_CUDA = $(WITH_TOOLS) . ./$(CUDA_TOOLS) &&
# candle's kernels take a quarter of an hour of one core. In a folder and a profile of their own, and with dpo-train among the
# packages, whose features its dependencies have then, they are built once.
CUDA_BUILD := --release --target-dir target/cuda --features cuda

# make train LOSS=ipo BETA=0.2 SEED=3 STEPS=100 ARGS="--lr 1e-3"
TRAIN_ARGS := $(if $(DATA),--data $(DATA)) $(if $(EVAL_DATA),--eval-data $(EVAL_DATA)) $(if $(LOSS),--loss $(LOSS)) \
	$(if $(BETA),--beta $(BETA)) $(if $(STEPS),--steps $(STEPS)) $(if $(SEED),--seed $(SEED)) $(ARGS)

.PHONY: help train test test-torch wheel bench bench-peers install-c gpu-bundle mutants kernels-report params readme package lint check-cuda

help:
	@echo "make train        a DPO run on real text: LOSS= BETA= STEPS= SEED= DATA= EVAL_DATA= CUDA=1 ARGS=..."
	@echo "make test         all tests; on a machine with a GPU the kernels run there too"
	@echo "make test-torch   tests of the PyTorch package, against PyTorch and TRL, which it installs: ARGS=\"-k opcheck\""
	@echo "make wheel        target/torch/wheels: the PyTorch package, with the kernels where NVRTC is found"
	@echo "make bench        benchmarks, CPU and (where there is one) GPU"
	@echo "make bench-peers  PyTorch's ways beside ours on the CPU, results in target/bench-peers/: ARGS=--quick"
	@echo "make install-c    the C ABI's header and libraries, and a file for pkg-config: PREFIX=/usr/local DESTDIR= CPU=1"
	@echo "make gpu-bundle   target/gpu-bundle: tests and benchmarks for a machine with a driver; TRAIN=1: and a training run"
	@echo "make check-cuda   clippy of what is built for candle's CUDA backend; installs nvcc where there is none, 16 minutes"
	@echo "make kernels-report  registers, occupancy, and instructions per element: of the main loops, and executed"
	@echo "make mutants      breaks the kernels one line at a time and checks that the suite notices: ONLY=words FROM=number"
	@echo "make package      packs the crates, and compiles them and their tests from what was packed"
	@echo "make lint         rustfmt, clippy and rustdoc, warnings as errors"
	@echo "make params       the Rust side of kernels/params.h and of the C ABI's header anew, and its Python side"
	@echo "make readme       the README's table of losses anew"

# The CPU run needs neither NVRTC nor CUDA; the GPU run needs nvcc too, for candle's own kernels, which are compiled for the
# GPU at hand or for CUDA_COMPUTE_CAP=90 and the like.
train: $(if $(CUDA),$(TOOLS) $(CUDA_TOOLS))
	$(if $(CUDA),$(WITH_CUDA)) $(CARGO) run -p dpo-train $(if $(CUDA),$(CUDA_BUILD) -- --device cuda,--release --) $(TRAIN_ARGS)

test: $(TOOLS)
	scripts/test-gpu-run.sh
	$(WITH_TOOLS) $(CARGO) test --workspace
	@echo "left out: $$(cat integrations/torch/tests/test_*.py | grep -c '^def test_') tests of the PyTorch package, which" \
		"make test-torch runs"

# Needs no NVRTC: the kernels are left out where no GPU can run them.
test-torch:
	scripts/test-torch.sh $(ARGS)

wheel: $(TOOLS)
	$(WITH_TOOLS) scripts/test-torch.sh wheel

bench: $(TOOLS)
	$(WITH_TOOLS) $(CARGO) bench -p dpo-kernels

# Needs no NVRTC: it is the CPU backend that is measured here.
bench-peers:
	scripts/bench-peers.sh $(ARGS)

# CPU=1 leaves the GPU's half out, and needs no NVRTC.
install-c: $(if $(CPU),,$(TOOLS))
	$(if $(CPU),,$(WITH_TOOLS)) $(CARGO) build --release -p dpo-kernels-c $(if $(CPU),--no-default-features)
	PREFIX="$(PREFIX)" LIBDIR="$(LIBDIR)" DESTDIR="$(DESTDIR)" scripts/install-c.sh "$${CARGO_TARGET_DIR:-target}/release"

gpu-bundle: $(TOOLS) $(if $(TRAIN),$(CUDA_TOOLS))
	$(WITH_TOOLS) TRAIN=$(TRAIN) scripts/gpu-bundle.sh

check-cuda: $(TOOLS) $(CUDA_TOOLS)
	$(WITH_CUDA) $(CARGO) clippy -p dpo-kernels-candle -p dpo-train $(CUDA_BUILD) --all-targets -- -D warnings

# Breaks the kernels one line at a time; the suite must notice each.
mutants: $(TOOLS)
	$(WITH_TOOLS) FROM=$(FROM) $(CARGO) run -q -p dpo-mutants -- $(ONLY)

kernels-report: $(TOOLS)
	$(WITH_TOOLS) DPO_KERNELS_REPORT=1 $(CARGO) test -q -p dpo-kernels --test machine_code --test executed

package: $(TOOLS)
	$(WITH_TOOLS) scripts/package.sh

params: $(TOOLS)
	$(WITH_TOOLS) DPO_UPDATE_PARAMS=1 $(CARGO) test -p dpo-bindings
	python3 integrations/torch/tools/structs.py

# The table is the host's, so that no kernel need be compiled for it.
readme:
	DPO_UPDATE_README=1 $(CARGO) test -p dpo-kernels --no-default-features --test losses

lint: $(TOOLS)
	$(CARGO) fmt --all --check
	$(WITH_TOOLS) $(CARGO) clippy --workspace --all-targets -- -D warnings
	$(WITH_TOOLS) $(CARGO) clippy -p dpo-kernels -p dpo-kernels-c --no-default-features --all-targets -- -D warnings
	$(WITH_TOOLS) RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps

$(TOOLS): scripts/tools.sh
	./scripts/tools.sh

$(CUDA_TOOLS): scripts/cuda-tools.sh scripts/cuda-stub.sh
	./scripts/cuda-tools.sh
