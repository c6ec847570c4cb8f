#!/usr/bin/env bash
# Builds the workspace and the double of Firecracker, and measures what VMs cost their agent. One argument, `double` or `qemu`,
# for one half of it. Needs root, nft, qemu-system-x86_64 and a guest kernel (scripts/setup-qemu-kernel.sh).
set -euo pipefail
cd "$(dirname "$0")/../.."
scripts/build-workspace.sh >&2
cargo build --quiet --release --package clarateach-microvm --example firecracker_double
exec cargo bench --quiet --package clarateach-microvm --bench microvm -- "$@"
