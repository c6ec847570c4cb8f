#!/usr/bin/env bash
# The long form of the fidelity tests: real root filesystems made from Debian packages, each turned into an image and
# compared with what GNU tar unpacks, checked by e2fsck, filled up by Linux and checked again; then the generated ones
# (100,000 files in a directory, nasty cases) and CASES (400) random stacks of layers against overlayfs.
#
# Needs root, loop devices, mmdebstrap, e2fsprogs, acl. Usage: benches/rootfs-fidelity.sh [DIRECTORY FOR THE ROOT FILESYSTEMS]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
roots=${1:-$(mktemp -d)}
mkdir -p "$roots"
make_root() { [[ -f $roots/$1.tar ]] || mmdebstrap --quiet --variant=minbase ${2:+--include=$2} bookworm "$roots/$1.tar"; }
make_root minimal ""
make_root python python3,python3-venv,python3-pip,ca-certificates,sudo,bash-completion
make_root node nodejs,npm,git
make_root build build-essential,gdb,cmake,clang,golang-go,git,python3-dev,openjdk-17-jdk-headless,libboost-dev,valgrind,vim,curl
cd "$root"
CLARATEACH_ROOTFS_TARS=$roots CLARATEACH_CASES=${CASES:-400} \
    cargo nextest run --release -p clarateach-rootfs --test fidelity --no-fail-fast --no-capture
