#!/usr/bin/env bash
# Runs the browser tests in a real headless Chromium.
#
#   tests/browser/run.sh                       starts a server of its own for each runtime that can be had here
#   CLARATEACH_URL=… tests/browser/run.sh      against a running server (CLARATEACH_TOKEN, CLARATEACH_RUNTIME, CLARATEACH_IMAGE)
#
# What can't run here is named in the file $CLARATEACH_SKIP_FILE, if that is set. Screenshots: test-results/browser/.
set -euo pipefail
cd "$(dirname "$0")"
root=$PWD/../..

skip() {
    echo "skipped: $1"
    if [[ -n ${CLARATEACH_SKIP_FILE:-} ]]; then echo "$1" >>"$CLARATEACH_SKIP_FILE"; fi
}

[[ -x ${CHROMIUM:-/usr/bin/chromium} ]] || { skip "browser: there is no ${CHROMIUM:-/usr/bin/chromium}"; exit 0; }
npm ci --no-audit --no-fund --silent

tests() { node --test --test-concurrency=1 --test-reporter=spec; }

if [[ -n ${CLARATEACH_URL:-} ]]; then
    tests
    exit
fi

server=${SERVER_BIN:-$root/target/debug/server}
[[ -x $server ]] || { echo "build it first: cargo build --bin server, scripts/build-workspace.sh" >&2; exit 1; }
scratch=$(mktemp -d)
running=
stop() {
    [[ -z $running ]] && return
    kill "$running" 2>/dev/null || true
    wait "$running" 2>/dev/null || true
    running=
}
trap 'stop; rm -rf "$scratch"' EXIT

# with_server RUNTIME NAME VARIABLE=VALUE…: runs the tests against a server of their own.
with_server() {
    local runtime=$1 name=$2 port
    shift 2
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    mkdir -p "$scratch/$name"
    echo "== $name"
    (cd "$scratch/$name" && exec env PORT="$port" DATABASE_URL="$scratch/$name/clarateach.db" "$@" "$server") >"$scratch/$name.log" 2>&1 &
    running=$!
    local deadline=$((SECONDS + 30))
    until curl --silent --fail --output /dev/null "http://127.0.0.1:$port/api/health"; do
        if ! kill -0 "$running" 2>/dev/null || ((SECONDS > deadline)); then
            cat "$scratch/$name.log" >&2
            return 1
        fi
        sleep 0.1
    done
    local result=0
    CLARATEACH_URL=http://127.0.0.1:$port CLARATEACH_RUNTIME=$runtime tests || result=$?
    if ((result)); then tail -n 40 "$scratch/$name.log" >&2; fi
    stop
    return $result
}

failed=0
with_server process process || failed=1
if docker info >/dev/null 2>&1 && docker image inspect clarateach-workspace >/dev/null 2>&1; then
    with_server docker docker || failed=1
else
    skip "browser on docker: no Docker Engine answers, or it has no image clarateach-workspace"
fi
exit $failed
