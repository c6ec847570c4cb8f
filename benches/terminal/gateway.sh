#!/usr/bin/env bash
# Measures terminals and files through a server's gateway, beside a bare PTY in the same run: a release server of its own,
# one workshop with one seat, a learner who joins. Options go to the bench (--seconds, --megabytes, --only echo, flood or files).
#
#   RUNTIME=process benches/terminal/gateway.sh     or docker; process is the default
#
# SERVER_BIN names a server to use instead of building one.
set -euo pipefail
cd "$(dirname "$0")/../.."
scripts/build-workspace.sh >&2
workspace=$(compgen -G "$PWD/target/guest/*/guest/workspace" | head -n 1)
server=${SERVER_BIN:-$PWD/target/release/server}
[[ -n ${SERVER_BIN:-} ]] || cargo build --quiet --release --bin server

scratch=$(mktemp -d)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
url=http://127.0.0.1:$port
workshop=
# shellcheck disable=SC2317 # called by the trap
cleanup() {
    if [[ -n $workshop ]]; then
        curl --silent --output /dev/null --request DELETE "$url/api/workshops/$workshop" || true
        for _ in $(seq 100); do
            [[ $(curl --silent --output /dev/null --write-out '%{http_code}' "$url/api/workshops/$workshop") == 404 ]] && break
            sleep 0.1
        done
    fi
    kill "$running" 2>/dev/null || true
    wait "$running" 2>/dev/null || true
    rm -rf "$scratch"
}
(cd "$scratch" && exec env PORT="$port" WORKSPACE_BIN="$workspace" RUST_LOG=warn "$server") >"$scratch/log" 2>&1 &
running=$!
trap cleanup EXIT
until curl --silent --fail --output /dev/null "$url/api/health"; do
    kill -0 "$running" || { cat "$scratch/log" >&2; exit 1; }
    sleep 0.1
done

field() { python3 -c 'import json, sys
value = json.load(sys.stdin)
for key in sys.argv[1].split("."): value = value.get(key, "")
print(value)' "$1"; }
made=$(curl --silent --fail --json "{\"name\":\"Bench\",\"seats\":1,\"runtime\":\"${RUNTIME:-process}\"}" "$url/api/workshops")
workshop=$(field workshop.id <<<"$made")
code=$(field workshop.join_code <<<"$made")
token=
until [[ -n $token ]]; do
    joined=$(curl --silent --json "{\"code\":\"$code\",\"client_id\":\"bench-bench-bench-bench\"}" "$url/api/join")
    token=$(field token <<<"$joined")
    sleep 0.2
done
session=$(field session_code <<<"$joined")
# What is told of memory and processor time: the server's, and the seat's where it is a process of this host.
watched=(--pid "$running")
for pid in $(pgrep --full "^workspace:$scratch/" || true); do watched+=(--pid "$pid"); done
cargo bench --quiet --package clarateach-workspace --bench terminal -- --session "$url/api/session/$session" "${watched[@]}" "$@"
