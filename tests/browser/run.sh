#!/usr/bin/env bash
# Runs the browser tests in a real headless Chromium.
#
#   tests/browser/run.sh                       starts servers of its own: each runtime that can be had here
#   CLARATEACH_URL=… tests/browser/run.sh      against a running server (CLARATEACH_TOKEN, CLARATEACH_RUNTIME, CLARATEACH_IMAGE)
#
# SERVER_BIN and WORKSPACE_BIN name other binaries than those in target/. What can't run here is named in the file
# $CLARATEACH_SKIP_FILE, if that is set. Screenshots: test-results/browser/.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)

skip() {
    echo "skipped: $1"
    if [[ -n ${CLARATEACH_SKIP_FILE:-} ]]; then echo "$1" >>"$CLARATEACH_SKIP_FILE"; fi
}

[[ -x ${CHROMIUM:-/usr/bin/chromium} ]] || { skip "browser: there is no ${CHROMIUM:-/usr/bin/chromium}"; exit 0; }
npm ci --no-audit --no-fund --silent

# tests FILE…: these, or all.
tests() { node --test --test-concurrency=1 --test-reporter=spec "$@" | tee "$scratch/tests.log"; }


server=${SERVER_BIN:-$root/target/debug/server}
[[ -x $server ]] || { echo "build it first: cargo build --bin server, scripts/build-workspace.sh" >&2; exit 1; }
# `cargo build` leaves a dynamic binary of the same name beside the server; seats need the static one.
static=$(compgen -G "$root/target/guest/*/guest/workspace" | head -n 1 || true)
if [[ -z ${WORKSPACE_BIN:-} && -x $static ]]; then export WORKSPACE_BIN=$static; fi

scratch=$(mktemp -d)
running=
stop() {
    if [[ -z $running ]]; then return; fi
    kill "$running" 2>/dev/null || true
    wait "$running" 2>/dev/null || true
    running=
}
trap 'stop; rm -rf "$scratch"' EXIT

if [[ -n ${CLARATEACH_URL:-} ]]; then
    tests
    exit
fi

# against NAME RUNTIME [locked]: runs the tests on a server of their own. `locked`: with logins, and with previews in a
# sandbox on the main origin, as a server with a public URL and no preview domain has them; those tests that see it.
against() {
    local name=$1 runtime=$2 port token= settings=() files=()
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    local url=http://127.0.0.1:$port log=$scratch/$name.log
    if [[ ${3:-} == locked ]]; then
        token=$(python3 -c 'import secrets; print(secrets.token_urlsafe(24))')
        settings=("ADMIN_TOKEN=$token" "PUBLIC_URL=$url")
        files=(workshop.test.mjs hostile-preview.test.mjs)
    fi
    echo "== $name"
    mkdir "$scratch/$name"
    (cd "$scratch/$name" && exec env PORT="$port" DATABASE_URL="$scratch/$name/clarateach.db" "${settings[@]}" "$server") >"$log" 2>&1 &
    running=$!
    local deadline=$((SECONDS + 30))
    until curl --silent --fail --output /dev/null "$url/api/health"; do
        if ! kill -0 "$running" 2>/dev/null || ((SECONDS > deadline)); then
            cat "$log" >&2
            return 1
        fi
        sleep 0.1
    done
    local result=0
    CLARATEACH_URL=$url CLARATEACH_TOKEN=$token CLARATEACH_RUNTIME=$runtime CLARATEACH_SHOTS=$name tests "${files[@]}" || result=$?
    if ((result)); then
        tail -n 40 "$log" >&2
        { echo "== $name failed"; sed -n '/failing tests:/,$p' "$scratch/tests.log"; } >>"$scratch/failures"
    fi
    stop
    return $result
}

# twice NAME RUNTIME [locked]: a second try, on a server of its own, after a first that failed; says so.
twice() {
    local first=$1
    shift
    against "$first" "$@" && return
    against "$first-again" "$@" && echo "== $first passed on the second try"
}

failed=0
twice process process || failed=1
if docker info >/dev/null 2>&1 && docker image inspect "${CLARATEACH_IMAGE:-clarateach-workspace}" >/dev/null 2>&1; then
    twice docker docker || failed=1
    twice docker-locked docker locked || failed=1
else
    skip "browser on docker: no Docker Engine answers, or it has no image ${CLARATEACH_IMAGE:-clarateach-workspace}"
fi
if [[ -f $scratch/failures ]]; then cat "$scratch/failures"; fi
exit $failed
