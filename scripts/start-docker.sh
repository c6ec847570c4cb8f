#!/usr/bin/env bash
# Makes sure that a Docker Engine answers: installs docker.io where it is missing, starts dockerd where it is not
# running, waits until it does. Safe to call again and from several scripts at once.
#
# Exit code 3: it runs, and this user, who may use sudo, is now in the group `docker`, but this process began before that.
# `sg docker COMMAND` runs a command with the group at once.
set -euo pipefail

say() { echo "[docker] $*" >&2; }

answers() { docker info >/dev/null 2>&1; }

# Whether it runs, but not for this user.
refuses() { [ -S /var/run/docker.sock ] && [ ! -w /var/run/docker.sock ] && pgrep -x dockerd >/dev/null; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

install_engine() {
  command -v apt-get >/dev/null || { say "no Docker Engine here, and no apt-get to install one with"; exit 1; }
  say "installing docker.io …"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    docker.io iptables nftables ca-certificates >/dev/null
}

start_engine() {
  if [ -d /run/systemd/system ]; then
    as_root systemctl start docker
  else
    # Its own session, so that it outlives this script and the terminal that called it.
    as_root bash -c 'setsid dockerd >>/tmp/dockerd.log 2>&1 </dev/null 9>&- &'
  fi
}

if answers; then exit 0; fi
case "${DOCKER_HOST:-unix:///var/run/docker.sock}" in
  unix:///var/run/docker.sock | unix:///run/docker.sock) ;;
  *) say "DOCKER_HOST=$DOCKER_HOST does not answer, and it is not for this script to start it"; exit 1 ;;
esac

exec 9>"/tmp/dockerd-$(id -u).lock"
flock 9
if ! answers; then
  command -v dockerd >/dev/null && command -v docker >/dev/null || install_engine
  pgrep -x dockerd >/dev/null || { say "starting dockerd (log: /tmp/dockerd.log) …"; start_engine; }
  for _ in $(seq 1 300); do
    if answers || refuses; then break; fi
    sleep 0.1
  done
fi
if ! answers && refuses; then
  say "the Engine answers only root and the group docker: $(id -un) is added to it"
  sudo usermod --append --groups docker "$(id -un)"
  exit 3
fi
answers || { say "dockerd does not answer after 30 s; its last words:"; tail -n 20 /tmp/dockerd.log >&2 || true; exit 1; }
say "Docker Engine $(docker version --format '{{.Server.Version}}') answers"
