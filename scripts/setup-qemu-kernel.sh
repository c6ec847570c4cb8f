#!/usr/bin/env bash
# Puts Debian's cloud kernel where microVMs look for theirs: DIR/vmlinux and DIR/modules/.
#
#   scripts/setup-qemu-kernel.sh [--deb FILE] [DIR]
#
# DIR is /var/lib/clarateach/images unless given. The package linux-image-cloud-amd64 names the newest kernel, which is
# fetched with `apt-get download` (so its checksum is that of the signed package lists), or taken from --deb FILE. Needs no
# root where DIR can be written. Run again, it does nothing while the same kernel is in place.
set -euo pipefail

say() { echo "[+] $*"; }
fail() {
    echo "setup-qemu-kernel: $*" >&2
    exit 1
}

deb=
directory=/var/lib/clarateach/images
while (($#)); do
    case $1 in
    --deb)
        (($# > 1)) || fail "--deb takes a file"
        deb=$(realpath -- "$2")
        shift 2
        ;;
    -h | --help)
        sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"
        exit 0
        ;;
    -*) fail "unknown option $1: it takes --deb FILE and a directory" ;;
    *)
        directory=$1
        shift
        ;;
    esac
done

for tool in ar tar od sha256sum; do
    command -v "$tool" >/dev/null || fail "$tool is missing: apt-get install binutils coreutils tar"
done
mkdir -p -- "$directory"
directory=$(realpath -- "$directory")
work=$(mktemp -d -- "$directory/.kernel.XXXXXX")
trap 'rm -rf -- "$work"' EXIT

# The version that the meta-package depends on, as apt's lists have it.
newest() {
    apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*-cloud-amd64\)$/\1/p' | head -n 1
}

if [[ -z $deb ]]; then
    command -v apt-get >/dev/null || fail "this is no Debian: give the kernel package with --deb FILE"
    package=$(newest)
    if [[ -z $package ]]; then
        apt-get update -qq || true
        package=$(newest)
    fi
    [[ -n $package ]] || fail "no linux-image-cloud-amd64 in the package lists: run apt-get update, or give it with --deb FILE"
    wanted=$package=$(apt-cache policy "$package" | sed -n 's/^ *Candidate: //p')
else
    [[ -r $deb ]] || fail "$deb can't be read"
    wanted=sha256:$(sha256sum <"$deb" | cut -d ' ' -f 1)
fi

# What is in place says what it was made from, and that nothing of it has changed since.
stamp=$directory/.kernel.stamp
fingerprint() {
    (cd "$directory" && sha256sum vmlinux && find modules -type f -print0 | sort -z | xargs -0 sha256sum) 2>/dev/null | sha256sum
}
if [[ -s $stamp && $(cat "$stamp") == "$wanted $(fingerprint)" ]]; then
    say "$directory has $wanted already"
    exit 0
fi

if [[ -z $deb ]]; then
    say "Downloading $wanted"
    # As the user _apt where possible, which must be able to write there.
    chmod 0755 "$work"
    (cd "$work" && apt-get download -qq -o APT::Sandbox::User=root "$wanted") || fail "apt-get download $wanted failed; --deb FILE takes a package that is already here"
    deb=$(echo "$work"/*.deb)
fi

say "Unpacking $(basename "$deb")"
mkdir "$work/package"
member=$(ar t "$deb" | grep '^data\.tar') || fail "$deb is no Debian package"
case $member in
*.xz) unpack=(xz -dc) ;;
*.zst) unpack=(zstd -dc) ;;
*.gz) unpack=(gzip -dc) ;;
*.tar) unpack=(cat) ;;
*) fail "$deb: $member has a compression this script does not know" ;;
esac
command -v "${unpack[0]}" >/dev/null || fail "${unpack[0]} is missing: apt-get install xz-utils zstd gzip"
ar p "$deb" "$member" | "${unpack[@]}" | tar -x -C "$work/package" --wildcards './boot/vmlinuz-*' './lib/modules/*' ||
    fail "$deb has no kernel: it takes a linux-image-…-cloud-amd64 package, not the meta-package"
kernel=$(echo "$work"/package/boot/vmlinuz-*)
modules=$(echo "$work"/package/lib/modules/*)
[[ -f $kernel && -d $modules/kernel ]] || fail "$deb has no kernel with modules"

# Where the compressed kernel is, by the x86 boot protocol (from 2.08 on): setup_sects at 0x1f1, payload_offset and
# payload_length at 0x248. Its last four bytes are the size of what comes out.
number() { od -An -t "u$2" -j "$1" -N "$2" --endian=little "$kernel" | tr -d ' '; }
[[ $(od -An -c -j $((0x202)) -N 4 "$kernel" | tr -d ' \n') == HdrS ]] || fail "$(basename "$kernel") is no bzImage"
start=$((($(number $((0x1f1)) 1) + 1) * 512 + $(number $((0x248)) 4)))
length=$(($(number $((0x24c)) 4) - 4))
size=$(number $((start + length)) 4)
magic=$(od -An -t x1 -j "$start" -N 6 "$kernel" | tr -d ' ')
case $magic in
1f8b08*) unpack=(gzip -dc) ;;
fd377a585a00) unpack=(xz -dc) ;;
28b52ffd*) unpack=(zstd -dc) ;;
02214c18*) unpack=(lz4 -dc) ;;
425a68*) unpack=(bzip2 -dc) ;;
5d0000*) unpack=(xz --format=lzma -dc) ;;
894c5a*) unpack=(lzop -dc) ;;
*) fail "$(basename "$kernel") is compressed in a way this script does not know (magic $magic)" ;;
esac
command -v "${unpack[0]}" >/dev/null || fail "${unpack[0]} is missing: apt-get install ${unpack[0]/xz/xz-utils}"
head -c $((start + length)) "$kernel" | tail -c "$length" | "${unpack[@]}" >"$work/vmlinux" || fail "unpacking $(basename "$kernel") failed"
[[ $(od -An -t x1 -N 4 "$work/vmlinux" | tr -d ' ') == 7f454c46 ]] || fail "what $(basename "$kernel") holds is no ELF file"
[[ $(stat -c %s "$work/vmlinux") == "$size" ]] || fail "$(basename "$kernel") is damaged: its kernel has not the size it states"

# Modules that a microVM may need, and those they need; not the hundreds of others.
mkdir "$work/modules"
cp -- "$modules"/modules.builtin "$work/modules/"
for folder in drivers/virtio drivers/block drivers/net drivers/char net/vmw_vsock net/core net/802 fs/overlayfs fs/ext4 fs/jbd2 fs/mbcache lib crypto; do
    [[ -e $modules/kernel/$folder ]] || continue
    find "$modules/kernel/$folder" -maxdepth 2 -type f -name '*.ko*' \
        \( -path '*/virtio*' -o -path '*vsock*' -o -name '*failover*' -o -path '*/overlayfs/*' -o -path '*/ext4/*' -o -path '*/jbd2/*' \
        -o -name 'mbcache*' -o -name '*crc*' \) -exec cp -- {} "$work/modules/" \;
done

say "Installing into $directory"
rm -f -- "$stamp"
chmod 0644 "$work/vmlinux"
mv -f -- "$work/vmlinux" "$directory/vmlinux"
rm -rf -- "$directory/modules"
chmod -R u=rwX,go=rX "$work/modules"
mv -- "$work/modules" "$directory/modules"
sync -f "$directory" || true
echo "$wanted $(fingerprint)" >"$stamp"
say "$(grep -aom 1 'Linux version [0-9][^ ]*' "$directory/vmlinux"), $(find "$directory/modules" -name '*.ko*' | wc -l) modules"
