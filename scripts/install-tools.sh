#!/usr/bin/env bash
# Installs what a fresh Debian machine lacks to build, run or test ClaraTeach. Run again, it does nothing.
#
#   scripts/install-tools.sh run    what building and running needs
#   scripts/install-tools.sh test   that and what the tests need
#
# A Rust toolchain and Node (20 or newer) have to be there; everything else comes from Debian's packages.
set -euo pipefail
cd "$(dirname "$0")/.."

purpose=${1:-run}
case $purpose in
run) packages=(build-essential curl ca-certificates docker.io iptables mmdebstrap nftables git) ;;
test)
    packages=(build-essential curl ca-certificates docker.io iptables mmdebstrap nftables git
        acl attr busybox-static chromium docker-compose e2fsprogs iproute2 iputils-ping lz4 postgresql procps python3 python3-venv python3-yaml qemu-system-x86 sqlite3 systemd util-linux xz-utils zstd)
    ;;
*)
    echo "usage: install-tools.sh run|test" >&2
    exit 2
    ;;
esac

for tool in cargo node npm; do
    if ! command -v "$tool" >/dev/null; then
        echo "install-tools: $tool is missing; install Rust (https://rustup.rs) and Node 20 or newer first" >&2
        exit 1
    fi
done

missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if ((${#missing[@]})); then
    sudo=()
    if ((EUID != 0)); then
        command -v sudo >/dev/null || {
            echo "install-tools: as root, run: apt-get install ${missing[*]}" >&2
            exit 1
        }
        sudo=(sudo)
    fi
    echo "[+] Installing ${missing[*]}"
    "${sudo[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

if [[ $purpose == test ]] && ! cargo nextest --version >/dev/null 2>&1; then
    echo "[+] Installing cargo-nextest"
    cargo install --quiet --locked cargo-nextest
fi

# Only promtool out of Debian's package: installing all of it would start a Prometheus here, on the agent's port.
if [[ $purpose == test ]] && ! command -v promtool >/dev/null && [[ ! -x target/tools/promtool ]]; then
    echo "[+] Unpacking promtool"
    unpacked=$(mktemp -d)
    trap 'rm -rf "$unpacked"' EXIT
    (cd "$unpacked" && apt-get download -qq prometheus && dpkg-deb --extract prometheus_*.deb .)
    mkdir -p target/tools
    mv "$unpacked/usr/bin/promtool" target/tools/
fi
