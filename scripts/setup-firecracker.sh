#!/usr/bin/env bash
# Installs what microVMs need: the VMM's binaries and a guest kernel.
#
#   sudo ./scripts/setup-firecracker.sh [--from DIR] [--unverified] [--vmm firecracker|qemu]
#
#   firecracker, jailer → /usr/local/bin (or BIN_DIR)
#   Linux kernel        → /var/lib/clarateach/images/vmlinux (or IMAGES_DIR)
#
# They are downloaded, or taken from DIR: the release's archive or the bare binaries, and the kernel, under the names that
# they have below or as firecracker, jailer and vmlinux. Nothing is installed whose checksum is not the pinned one; files
# of DIR may instead be listed in a SHA256SUMS there, and --unverified takes them as they are.
#
# --vmm qemu installs QEMU from Debian's packages and a Debian kernel instead, for machines without KVM.
#
# Run again, it does nothing while all is in place.
set -euo pipefail

# The checksums are those in the release's own SHA256SUMS and .sha256.txt. Firecracker's CI bucket publishes none for its
# kernels; this one is the checksum that several projects which boot this kernel have each recorded on download.
version=v1.17.0
archive=firecracker-$version-x86_64.tgz
archive_url=https://github.com/firecracker-microvm/firecracker/releases/download/$version/$archive
archive_sha256=06094a1108ae9e82aa4c23a775aa92758f53f1175d422270d9d6162cb9ade558
firecracker_sha256=99ad0f5cd0514a88aad0e9ae8cfdb3cc3b4ab9d190e1194602406c786b5de7a5
jailer_sha256=65ef226e96f0ceda55ba643f445801ef2cc0ea667ef67cad8ac4f406c9c8434f
kernel=vmlinux-6.1.141
kernel_url=https://s3.amazonaws.com/spec.ccfc.min/firecracker-ci/v1.13/x86_64/$kernel
kernel_sha256=b36a4a1b10f33b9cfdcde3d1a787d9c090556a3edb211cd06d1f3f9a6c7e8724

bin_dir=${BIN_DIR:-/usr/local/bin}
images_dir=${IMAGES_DIR:-/var/lib/clarateach/images}
from=
unverified=
vmm=firecracker

say() { echo "[+] $*"; }
fail() {
    echo "[-] $*" >&2
    exit 1
}

while (($#)); do
    case $1 in
    --from)
        (($# > 1)) || fail "--from takes a directory"
        from=$(realpath -- "$2") && [[ -d $from ]] || fail "--from: $2 is no directory"
        shift 2
        ;;
    --vmm)
        (($# > 1)) || fail "--vmm takes firecracker or qemu"
        vmm=$2
        shift 2
        ;;
    --unverified)
        unverified=yes
        shift
        ;;
    -h | --help)
        sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"
        exit 0
        ;;
    *) fail "unknown option $1; see $0 --help" ;;
    esac
done
[[ -z $unverified || -n $from ]] || fail "--unverified is for files that you have: it goes with --from DIR"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
staging=()
trap 'rm -rf -- "${staging[@]}"' EXIT

[[ $(uname -sm) == "Linux x86_64" ]] || fail "this is $(uname -sm); microVMs run on Linux x86_64 only"

# A directory that files can be renamed from into DIR, whatever happens meanwhile.
stage_in() {
    mkdir -p -- "$1" 2>/dev/null && [[ -w $1 ]] || fail "$1 can't be written; run this with sudo"
    stage=$(mktemp -d -- "$1/.setup.XXXXXX")
    staging+=("$stage")
}

sum_of() { sha256sum -- "$1" | cut -d ' ' -f 1; }

# check FILE PINNED NAME: refuses a file whose checksum is not the one that it should have.
check() {
    local found
    found=$(sum_of "$1")
    [[ $found == "$2" ]] && return 0
    [[ -n $unverified ]] && { say "Taking $3 unverified ($found)" && return 0; }
    if [[ -n $from && -r $from/SHA256SUMS ]]; then
        awk -v sum="$found" -v name="$3" '$1 == sum && ($2 == name || $2 == "*" name) { found = 1 } END { exit !found }' \
            "$from/SHA256SUMS" && return 0
        fail "$3 has the checksum $found, which is neither the pinned one nor in $from/SHA256SUMS; nothing was installed"
    fi
    fail "$3 has the checksum $found and should have $2: it is damaged or not what it says; nothing was installed"
}

download() {
    command -v curl >/dev/null || fail "curl is missing: apt-get install curl"
    curl --fail --location --silent --show-error --proto '=https' --connect-timeout 15 --retry 3 --max-time 900 \
        --output "$2" "$1" || fail "$1 could not be downloaded; with the file on another machine, use --from DIR"
}

# publish FILE MODE TARGET: in place whole or not at all.
publish() {
    chmod "$2" "$1"
    sync -- "$1"
    mv -f -- "$1" "$3"
}

install_binaries() {
    if [[ -z $from && -x $bin_dir/firecracker && -x $bin_dir/jailer &&
        $(sum_of "$bin_dir/firecracker") == "$firecracker_sha256" && $(sum_of "$bin_dir/jailer") == "$jailer_sha256" ]]; then
        say "Firecracker $version is in $bin_dir already"
        return
    fi
    stage_in "$bin_dir"
    local packed=
    if [[ -z $from ]]; then
        say "Downloading Firecracker $version"
        packed=$stage/$archive
        download "$archive_url" "$packed"
    elif [[ -r $from/$archive ]]; then
        packed=$from/$archive
    fi
    if [[ -n $packed ]]; then
        check "$packed" "$archive_sha256" "$archive"
        tar -xzf "$packed" -C "$stage" --no-same-owner || fail "$archive can't be unpacked"
        mv -- "$stage/release-$version-x86_64/firecracker-$version-x86_64" "$stage/firecracker" &&
            mv -- "$stage/release-$version-x86_64/jailer-$version-x86_64" "$stage/jailer" ||
            fail "$archive does not hold firecracker and jailer"
    else
        [[ -r $from/firecracker ]] || fail "$from has neither $archive nor firecracker"
        check "$from/firecracker" "$firecracker_sha256" firecracker
        cp -- "$from/firecracker" "$stage/"
        if [[ -r $from/jailer ]]; then
            check "$from/jailer" "$jailer_sha256" jailer
            cp -- "$from/jailer" "$stage/"
        fi
    fi
    chmod 0755 "$stage/firecracker"
    local names
    names=$("$stage/firecracker" --version 2>/dev/null | head -n 1) || true
    [[ $names == Firecracker* ]] || fail "firecracker does not run on this machine; nothing was installed"
    [[ -e $stage/jailer ]] && publish "$stage/jailer" 0755 "$bin_dir/jailer"
    publish "$stage/firecracker" 0755 "$bin_dir/firecracker"
    say "$names → $bin_dir/firecracker"
    if [[ -x $bin_dir/jailer ]]; then say "Jailer → $bin_dir/jailer"; fi
}

install_kernel() {
    local target=$images_dir/vmlinux
    if [[ -z $from && -r $target && $(sum_of "$target") == "$kernel_sha256" ]]; then
        say "Linux ${kernel#vmlinux-} is in $images_dir already"
        return
    fi
    stage_in "$images_dir"
    if [[ -z $from ]]; then
        say "Downloading Linux ${kernel#vmlinux-}"
        download "$kernel_url" "$stage/vmlinux"
        check "$stage/vmlinux" "$kernel_sha256" "$kernel"
    else
        local name=$kernel
        [[ -r $from/$name ]] || name=vmlinux
        [[ -r $from/$name ]] || fail "$from has neither $kernel nor vmlinux"
        check "$from/$name" "$kernel_sha256" "$name"
        cp -- "$from/$name" "$stage/vmlinux"
    fi
    [[ $(head -c 4 "$stage/vmlinux" | od -An -t x1 | tr -d ' ') == 7f454c46 ]] ||
        fail "the kernel is no uncompressed ELF file (vmlinux); nothing was installed"
    publish "$stage/vmlinux" 0644 "$target"
    # Modules of another kernel would be loaded into this one.
    rm -rf -- "$images_dir/modules" "$images_dir/.kernel.stamp"
    say "Linux kernel → $target"
}

install_qemu() {
    if ! command -v qemu-system-x86_64 >/dev/null; then
        command -v apt-get >/dev/null || fail "qemu-system-x86_64 is missing, and there is no apt-get to install it with"
        ((EUID == 0)) || fail "qemu-system-x86_64 is missing; run this with sudo"
        say "Installing qemu-system-x86"
        apt-get update -qq || true
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends qemu-system-x86 >/dev/null ||
            fail "qemu-system-x86 could not be installed; see above"
    fi
    say "$(qemu-system-x86_64 --version | head -n 1)"
    local deb=()
    if [[ -n $from ]]; then
        for deb in "$from"/linux-image-[0-9]*-cloud-amd64_*.deb; do [[ -r $deb ]] && break; done
        [[ -r $deb ]] || fail "$from has no linux-image-…-cloud-amd64 package"
        deb=(--deb "$deb")
    fi
    "$here/setup-qemu-kernel.sh" "${deb[@]}" "$images_dir"
}

case $vmm in
firecracker)
    install_binaries
    install_kernel
    [[ -w /dev/kvm ]] || say "Note: KVM not available here (no /dev/kvm that can be written); see agent doctor"
    ;;
qemu) install_qemu ;;
*) fail "--vmm takes firecracker or qemu, not $vmm" ;;
esac
say "Done"
