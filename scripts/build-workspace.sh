#!/usr/bin/env bash
# Builds the static `workspace` binary that goes into every seat, and puts it beside the server's executable:
# target/debug/workspace and target/release/workspace.
#
# It has a target directory of its own, because `cargo build` of the whole workspace makes a dynamic binary of the same
# name: whoever takes a `workspace` for a seat must check that it has no interpreter, as this script does.
set -euo pipefail

cd "$(dirname "$0")/.."
host=$(rustc -vV | sed -n 's/^host: //p')
guest=target/guest
built=$guest/$host/guest/workspace

RUSTFLAGS='-C target-feature=+crt-static --cfg getrandom_backend="linux_getrandom"' \
    cargo build --quiet --package clarateach-workspace --bin workspace \
    --profile guest --target "$host" --target-dir "$guest"

# PT_INTERP is program header type 3; a static-pie binary has none.
if python3 - "$built" <<'PYTHON'
import struct, sys
elf = open(sys.argv[1], "rb").read()
offset, = struct.unpack_from("<Q", elf, 32)
size, count = struct.unpack_from("<HH", elf, 54)
sys.exit(any(struct.unpack_from("<I", elf, offset + n * size)[0] == 3 for n in range(count)))
PYTHON
then :; else
    echo "build-workspace: $built is not static" >&2
    exit 1
fi

for profile in debug release; do
    beside=target/$profile/workspace
    mkdir -p "target/$profile"
    if ! cmp --silent "$built" "$beside"; then
        # By rename: a seat may be running the old one.
        cp "$built" "$beside.new"
        mv "$beside.new" "$beside"
    fi
done
echo "$built ($(stat --format=%s "$built") bytes), copied to target/debug and target/release"
