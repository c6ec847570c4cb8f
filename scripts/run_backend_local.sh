#!/usr/bin/env bash
# Runs ClaraTeach on this machine: installs what is missing, builds, starts Docker and the server.
# Settings come from the environment (PORT, DATABASE_URL, …; see docs/settings.md). Ctrl-C stops the server; seats go on.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install-tools.sh run
echo "[+] Building the web pages"
npm --prefix web ci --no-audit --no-fund --silent
npm --prefix web run build --silent >/dev/null
echo "[+] Building the server"
cargo build --release --locked --bin server
echo "[+] Building the workspace binary"
scripts/build-workspace.sh
docker=0
scripts/start-docker.sh || docker=$?
if ((docker == 3)) && [[ -z ${CLARATEACH_IN_GROUP:-} ]]; then
    # What was built is there already the second time.
    CLARATEACH_IN_GROUP=1 exec sg docker scripts/run_backend_local.sh
fi
if ((docker == 0)); then
    echo "[+] Building the learner image"
    scripts/build-workspace-image.sh
else
    echo "[!] Docker could not be started; seats will be plain processes without isolation"
fi

url=http://localhost:${PORT:-8080}
cat <<TXT

ClaraTeach starts on $url
  Instructor:  $url/instructor
  or:          curl -X POST $url/api/workshops -H 'Content-Type: application/json' \\
                    -d '{"name":"Test Workshop","seats":3}'
  Learners:    $url   (with the join code)

TXT
exec target/release/server
