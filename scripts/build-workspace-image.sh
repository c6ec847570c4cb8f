#!/usr/bin/env bash
# Builds clarateach-workspace, the default learner image, unless it is there and current.
#
#   scripts/build-workspace-image.sh            build if need be
#   scripts/build-workspace-image.sh --force    build in any case
#
# From images/workspace/Dockerfile where its base image is on this machine or can be pulled; else from Debian's packages
# with mmdebstrap, through this machine's own apt sources. Both have the same packages, user, settings and label.
set -euo pipefail
cd "$(dirname "$0")/.."

image=clarateach-workspace
base=debian:bookworm-slim
label=io.clarateach.image-content
source=images/workspace
content=$(cat "$source"/Dockerfile "$source"/packages.txt "$source"/setup.sh "$0" | sha256sum | cut -c1-16)

# shellcheck source=scripts/apt-settings.sh
. scripts/apt-settings.sh

say() { echo "[image] $*" >&2; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

current() {
  [ "$(docker image inspect --format "{{index .Config.Labels \"$label\"}}" "$image" 2>/dev/null)" = "$content" ]
}

have_base() {
  docker image inspect "$base" >/dev/null 2>&1 && return 0
  say "asking the registry for $base …"
  timeout 60 docker pull --quiet "$base" >/dev/null 2>&1
}

from_dockerfile() {
  have_base || { say "$base can't be had here"; return 1; }
  say "building from $source/Dockerfile …"
  docker build --label "$label=$content" --tag "$image" "$source" >&2 || { say "docker build failed"; return 1; }
}

from_packages() {
  if ! command -v mmdebstrap >/dev/null; then
    command -v apt-get >/dev/null || { say "neither a registry nor apt: the image can't be built here"; return 1; }
    say "installing mmdebstrap …"
    as_root apt-get install -y -qq --no-install-recommends mmdebstrap >/dev/null
  fi
  # Removed by the trap below, whatever happens.
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  apt_settings >"$work/apt.conf"
  local sources packages
  sources=$(apt_sources)
  packages=$(paste -sd, "$source/packages.txt")
  say "building from Debian's packages (${sources:-the public archive}); this takes a few minutes …"
  as_root mmdebstrap --variant=minbase --include="$packages" \
    --aptopt="$work/apt.conf" --aptopt='APT::Install-Recommends "false"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook="cp $source/setup.sh \"\$1/tmp/setup.sh\" && chroot \"\$1\" sh /tmp/setup.sh && rm \"\$1/tmp/setup.sh\"" \
    bookworm "$work/root.tar" ${sources:+"$sources"} 2>&1 |
    { grep --line-buffered -E '^(I:|E:|W: )' || true; } | sed -u 's/^/[image]   /' >&2
  [ -s "$work/root.tar" ] || { say "mmdebstrap made nothing"; return 1; }
  say "importing …"
  as_root cat "$work/root.tar" | docker import \
    --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
    --change 'ENV LANG=C.UTF-8' --change 'ENV PIP_DISABLE_PIP_VERSION_CHECK=1' \
    --change 'ENV NPM_CONFIG_UPDATE_NOTIFIER=false' --change 'ENV NPM_CONFIG_PREFIX=/home/learner/.local' \
    --change 'USER learner' --change 'WORKDIR /workspace' --change 'CMD ["bash"]' \
    --change "LABEL $label=$content" - "$image" >/dev/null
}

docker info >/dev/null 2>&1 || { say "no Docker Engine answers; scripts/start-docker.sh starts one"; exit 1; }
exec 9>"${TMPDIR:-/tmp}/clarateach-image-$(id -u).lock"
flock 9
if [ "${1:-}" != --force ] && current; then
  say "$image is there and current"
  exit 0
fi
from_dockerfile || from_packages
current || { say "$image was built, but is not what was asked for"; exit 1; }
say "$image is ready ($(docker image inspect --format '{{.Size}}' "$image" | numfmt --to=iec))"
