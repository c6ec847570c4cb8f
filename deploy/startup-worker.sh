#!/bin/bash
# Makes a Debian 12 VM on GCP a ClaraTeach worker. It is the instance's startup script (metadata startup-script), so it runs as
# root at every boot; what is already there, it leaves alone. Its output is on the serial console: vmctl logs NAME.
#
# Metadata attributes:
#   agent-token                the agent's token (the agent asks for it itself; it is never written to disk)
#   clarateach-release         https://… or gs://… of a .tar.gz with agent, workspace, clarateach-agent.service, optionally with
#                              setup-firecracker.sh, firecracker, jailer, images/vmlinux and images/rootfs.ext4
#   clarateach-release-sha256  its SHA-256; with it nothing else is installed
#   clarateach-agent-env       more settings of the agent, lines of NAME=VALUE
set -euo pipefail

# Overridable for tests.
metadata=http://${GCE_METADATA_HOST:-metadata.google.internal}/computeMetadata/v1/instance
root=${STARTUP_ROOT:-}

say() { echo "startup-worker: $*"; }
fail() {
    say "failed: $*" >&2
    exit 1
}

# Prints an attribute; fails when there is none.
attribute() {
    curl --silent --fail --retry 5 --retry-connrefused --max-time 10 -H 'Metadata-Flavor: Google' \
        "$metadata/$1"
}

fetch() {
    local url=$1 to=$2
    local args=(--silent --show-error --fail --location --retry 5 --retry-connrefused --connect-timeout 10 --output "$to")
    case $url in
    gs://*)
        local token bucket object
        token=$(attribute service-accounts/default/token | sed -n 's/.*"access_token" *: *"\([^"]*\)".*/\1/p')
        bucket=${url#gs://}
        object=${bucket#*/}
        bucket=${bucket%%/*}
        # The token goes by a file, since a command line is for everybody to see.
        curl "${args[@]}" --config - "https://storage.googleapis.com/$bucket/$object" <<<"header = \"Authorization: Bearer $token\""
        ;;
    https://* | http://127.0.0.1:*) curl "${args[@]}" "$url" ;;
    *) fail "clarateach-release: $url is neither https:// nor gs://" ;;
    esac
}

release=$(attribute attributes/clarateach-release) || fail "no metadata attribute clarateach-release"
sum=$(attribute attributes/clarateach-release-sha256) || sum=
installed=$root/var/lib/clarateach/release

if [[ -f $installed && $(<"$installed") == "$release $sum" ]]; then
    say "$release is installed"
else
    if [[ -z $root ]]; then
        export DEBIAN_FRONTEND=noninteractive
        missing=()
        for package in curl ca-certificates e2fsprogs nftables iproute2 zstd; do
            dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
        done
        if ((${#missing[@]})); then
            say "installing ${missing[*]}"
            apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
        fi
    fi
    work=$(mktemp -d)
    trap 'rm -rf -- "$work"' EXIT
    say "fetching $release"
    fetch "$release" "$work/release.tar.gz"
    if [[ -n $sum ]]; then
        echo "$sum  $work/release.tar.gz" | sha256sum --check --status || fail "$release has another checksum than $sum"
    fi
    mkdir "$work/release"
    tar -xzf "$work/release.tar.gz" -C "$work/release" --no-same-owner
    [[ -f $work/release/agent && -f $work/release/workspace ]] || fail "$release has no agent and workspace"

    mkdir -p "$root/usr/local/bin" "$root/etc/clarateach" "$root/etc/systemd/system" "$root/var/lib/clarateach/images"
    # Renamed into place, so that a running program is never written to.
    for program in agent workspace firecracker jailer; do
        if [[ -f $work/release/$program ]]; then
            install -m 0755 "$work/release/$program" "$root/usr/local/bin/.$program.new"
            mv -f "$root/usr/local/bin/.$program.new" "$root/usr/local/bin/$program"
        fi
    done
    if [[ -f $work/release/clarateach-agent.service ]]; then
        install -m 0644 "$work/release/clarateach-agent.service" "$root/etc/systemd/system/"
    fi
    for image in vmlinux rootfs.ext4; do
        if [[ -f $work/release/images/$image ]]; then
            install -m 0644 "$work/release/images/$image" "$root/var/lib/clarateach/images/.$image.new"
            mv -f "$root/var/lib/clarateach/images/.$image.new" "$root/var/lib/clarateach/images/$image"
        fi
    done
    if [[ ! -x $root/usr/local/bin/firecracker && -f $work/release/setup-firecracker.sh ]]; then
        bash "$work/release/setup-firecracker.sh"
    fi
    echo "$release $sum" >"$installed.new"
    mv -f "$installed.new" "$installed"
    say "installed $release"
fi

env=$root/etc/clarateach/agent.env
attribute attributes/clarateach-agent-env >"$env.new" || : >"$env.new"
chmod 0600 "$env.new"
if cmp -s "$env.new" "$env" 2>/dev/null; then rm -f "$env.new"; else mv -f "$env.new" "$env"; fi

if [[ -z $root ]]; then
    [[ -e /dev/kvm ]] || say "there is no /dev/kvm: this VM has no nested virtualisation (vmctl recreate)" >&2
    systemctl daemon-reload
    systemctl enable --quiet clarateach-agent
    systemctl start clarateach-agent
fi
say "the agent is set up"
