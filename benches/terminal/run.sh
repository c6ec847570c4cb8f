#!/usr/bin/env bash
# Builds the static workspace and measures it beside a bare PTY. Options go to the bench: --seconds, --megabytes, --only echo (or
# flood, files). Needs root, as a seat's first process is. Through a gateway: gateway.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."
scripts/build-workspace.sh >&2
exec cargo bench --quiet --package clarateach-workspace --bench terminal -- "$@"
