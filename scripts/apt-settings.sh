# Sourced by scripts that run mmdebstrap: this machine's own ways to Debian's packages.
# shellcheck shell=bash

# apt's settings for reaching its sources on this machine: proxies, certificates, snapshots that are past their date.
apt_settings() {
  apt-config dump | grep -E '^(Acquire::(http|https|ftp)::|Acquire::Check-|Acquire::Retries|Acquire::ForceIPv)' || true
}

# The first of this machine's sources that is Debian itself; the public archive where there is none.
apt_sources() {
  local file
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list.d/*.list; do
    if [ -s "$file" ] && grep -qE '^(deb |Types:)' "$file" && grep -q bookworm "$file" && grep -q debian "$file"; then
      echo "$file"
      return
    fi
  done
}
