#!/usr/bin/env bash
# Builds the static workspace and measures it beside a bare PTY. Options go to the bench: --seconds, --megabytes, and
# --url with --header to measure through a server's gateway. Needs root, as a seat's first process is.
set -euo pipefail
cd "$(dirname "$0")/../.."
scripts/build-workspace.sh >&2
exec cargo bench --quiet --package clarateach-workspace --bench terminal -- "$@"
