#!/usr/bin/env bash
# Fuzzes what reads images, each target for SECONDS (60 by default), with the stable compiler and without cargo-fuzz.
# Usage: fuzz/run.sh [SECONDS] [TARGET…]; what it finds is left in fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:-60}
shift || true
targets=("${@:-}")
[[ -n ${targets[0]} ]] || targets=(tar merge manifest)
flags="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
flags+=" -Cllvm-args=-sanitizer-coverage-pc-table -Ccodegen-units=1"
RUSTFLAGS=$flags cargo build --release --target x86_64-unknown-linux-gnu
binaries=${CARGO_TARGET_DIR:-target}/x86_64-unknown-linux-gnu/release
for target in "${targets[@]}"; do
    mkdir -p "corpus/$target" artifacts
    # Something valid to start from.
    if [[ $target == manifest ]]; then
        printf '{"schemaVersion":2,"manifests":[{"digest":"sha256:%064d","size":1}]}' 0 >corpus/manifest/index
        printf '[{"Config":"a","RepoTags":null,"Layers":["b"]}]' >corpus/manifest/saved
        printf '{"rootfs":{"diff_ids":["sha256:%064d"]},"created":"2026-01-01T00:00:00Z"}' 0 >corpus/manifest/config
    else
        seed=$(mktemp -d)
        mkdir "$seed/d" && echo text >"$seed/d/f" && ln "$seed/d/f" "$seed/d/h" && ln -s f "$seed/d/l" && mkfifo "$seed/p"
        truncate -s 1M "$seed/sparse" && echo x >>"$seed/sparse" && touch "$seed/.wh.gone" "$seed/d/.wh..wh..opq"
        for format in gnu pax v7 ustar; do
            (printf '\1' && tar -C "$seed" --sparse --format="$format" -c . 2>/dev/null || true) >"corpus/$target/$format"
        done
        rm -r "$seed"
    fi
    "$binaries/$target" -max_total_time="$seconds" -max_len=65536 -rss_limit_mb=2048 -artifact_prefix="artifacts/$target-" \
        -print_final_stats=1 "corpus/$target" 2>&1 | tail -12
done
