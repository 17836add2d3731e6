#!/usr/bin/env bash
# Packs the published crates as cargo would upload them, unpacks them side by side under target/package/unpacked, and checks
# that they and their own tests, benchmarks and examples compile from what was packed. A file that an `include` leaves out is
# missed here.
set -euo pipefail
cd "$(dirname "$0")/.."
crates=(dpo-kernels dpo-kernels-c dpo-kernels-candle)
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
unpacked=target/package/unpacked

# The working tree is what is tested; a release is packed from a clean one.
cargo package --quiet --allow-dirty --no-verify "${crates[@]/#/--package=}"
rm -rf "$unpacked"
mkdir -p "$unpacked"
for crate in "${crates[@]}"; do
    tar -xzf "target/package/$crate-$version.crate" -C "$unpacked"
done
# On a registry each would find the other there.
cat >"$unpacked/Cargo.toml" <<TOML
[workspace]
members = ["*-$version"]
resolver = "3"

[patch.crates-io]
dpo-kernels = { path = "dpo-kernels-$version" }
TOML
cp Cargo.lock "$unpacked"
# One target is enough to see that sources, build script and images fit together.
DPO_KERNELS_ARCHS=compute_80 cargo check --quiet --manifest-path "$unpacked/Cargo.toml" --workspace --all-targets \
    --target-dir target/package/build
