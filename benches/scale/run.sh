#!/usr/bin/env bash
# The control plane alone at scale, on SQLite and PostgreSQL: wall time and processor time by phase, times of joins, memory.
#   benches/scale/run.sh [DATABASE...]        sqlite and postgres unless told otherwise
# WORKERS, SEATS_PER_WORKER and SEATS make it smaller or larger; PROFILE=dev measures an unoptimised build.
set -euo pipefail
cd "$(dirname "$0")/../.."

databases=("$@")
[ ${#databases[@]} -gt 0 ] || databases=(sqlite postgres)
cargo build --quiet --profile "${PROFILE:-release}" -p clarateach-server --bench scale
for database in "${databases[@]}"; do
    DATABASE=$database cargo bench --quiet --profile "${PROFILE:-release}" -p clarateach-server --bench scale
done
