#!/usr/bin/env bash
# Runs the server itself in a container. It uses this machine's Docker Engine for the seats and this machine's network,
# so the address, the settings and their defaults are as they would be without a container; the data is in ./clarateach-data.
# Ctrl-C stops the server; seats go on.
set -euo pipefail
cd "$(dirname "$0")/.."

image=clarateach-server
data=${CLARATEACH_DATA:-$PWD/clarateach-data}

scripts/install-tools.sh run
docker=0
scripts/start-docker.sh || docker=$?
if ((docker == 3)) && [[ -z ${CLARATEACH_IN_GROUP:-} ]]; then
    CLARATEACH_IN_GROUP=1 exec sg docker scripts/run_backend_docker.sh
fi
((docker == 0))
echo "[+] Building the web pages"
npm --prefix web ci --no-audit --no-fund --silent
npm --prefix web run build --silent >/dev/null
echo "[+] Building the server"
cargo build --release --locked --bin server
echo "[+] Building the workspace binary"
scripts/build-workspace.sh
echo "[+] Building the learner image"
scripts/build-workspace-image.sh

echo "[+] Building the server image"
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
cp target/release/server target/release/workspace "$context"
cp images/server/Dockerfile "$context"
# A small Debian with nft, which closes the host and private ranges to seats; made here, so nothing has to be pulled.
base=clarateach-server-base
if ! docker image inspect "$base" >/dev/null 2>&1; then
    as_root=()
    ((EUID == 0)) || as_root=(sudo)
    # shellcheck source=scripts/apt-settings.sh
    . scripts/apt-settings.sh
    apt_settings >"$context/apt.conf"
    sources=$(apt_sources)
    "${as_root[@]}" mmdebstrap --quiet --variant=minbase --include=ca-certificates,nftables \
        --aptopt="$context/apt.conf" bookworm - ${sources:+"$sources"} |
        docker import - "$base" >/dev/null
fi
docker build --quiet --tag "$image" --build-arg BASE="$base" "$context" >/dev/null
rm -rf "$context"
trap - EXIT

mkdir -p "$data"
url=http://localhost:${PORT:-8080}
cat <<TXT

ClaraTeach starts on $url (in a container)
  Instructor:  $url/instructor
  Learners:    $url   (with the join code)

TXT
settings=(--env DATABASE_URL)
# SQLite lives in the data directory; PostgreSQL wherever it is.
[[ ${DATABASE_URL:-} == postgres* ]] || export DATABASE_URL=/data/clarateach.db
for name in $(target/release/server --help | sed -nE 's/^ +([A-Z][A-Z0-9_]+) .*/\1/p'); do
    case $name in
        # Paths of this machine mean nothing in the container.
        DATABASE_URL | STATE_DIR | WORKSPACE_BIN | DOCKER_HOST | NAME_FILE | IMAGES_DIR | SOCKET_DIR | *_BIN) continue ;;
    esac
    # Only the name: the value comes from this shell's environment and stays out of the process list.
    if [[ -n ${!name:-} ]]; then settings+=(--env "$name"); fi
done
terminal=()
[[ -t 0 ]] && terminal=(--interactive --tty)
exec docker run --rm "${terminal[@]}" --name clarateach-server --network host \
    --cap-drop ALL --cap-add NET_ADMIN --cap-add DAC_OVERRIDE \
    --volume /var/run/docker.sock:/var/run/docker.sock --volume "$data:/data" \
    "${settings[@]}" "$image"
