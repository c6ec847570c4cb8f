#!/usr/bin/env bash
# Start of class on Docker: 60 learners arrive within five seconds at a workshop that was made as they came. Prints how long they wait
# and the processor time of a seat, beside bare containers of the same image on networks with and without the Engine's own resolver.
#   LEARNERS=60 OVER=5 IMAGE=clarateach-workspace benches/class/run.sh
# PROFILE=dev measures an unoptimised server.
set -euo pipefail
cd "$(dirname "$0")/../.."
scripts/start-docker.sh >&2
profile=${PROFILE:-release}
cargo build --quiet --profile "$profile" -p clarateach-server --bin server
directory=${CARGO_TARGET_DIR:-target}/$([ "$profile" = dev ] && echo debug || echo "$profile")
SERVER_BIN=$(realpath "$directory/server") exec cargo bench --quiet --profile "$profile" -p clarateach-tests --bench class
