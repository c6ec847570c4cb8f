#!/usr/bin/env bash
# One image of about 1 GB as an ext4 filesystem, by rootfs-builder and by everything that people use instead, in one run.
#
# Prints a table: median wall time, CPU time and peak memory of RUNS runs (3). Every row ends with the image synced to disk.
# Needs root and loop devices for the peers, and mmdebstrap, e2fsprogs, time, cargo. Usage: benches/rootfs.sh [WORKDIR]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
work=${1:-$(mktemp -d)}
runs=${RUNS:-3}
size=3G
bytes=$((3 << 30))
mkdir -p "$work"
# shellcheck source=benches/rootfs-images.sh
. "$here/rootfs-images.sh"

echo "preparing in $work" >&2
(cd "$root" && cargo build --quiet --release -p clarateach-rootfs)
(cd "$here/rootfs-peers" && CARGO_TARGET_DIR=$work/peers cargo build --quiet --release)
builder=${CARGO_TARGET_DIR:-$root/target}/release/rootfs-builder
peer=$work/peers/release/rootfs-peers
tar=$work/image.tar
[[ -f $tar ]] || mmdebstrap --quiet --variant=minbase \
    --include=build-essential,cmake,git,python3-dev,clang bookworm "$tar"
[[ -f $tar.gz ]] || gzip -6 -n -k "$tar"
if [[ ! -f $work/top.tar ]]; then
    mkdir -p "$work/top/opt/course" && echo one >"$work/top/opt/course/file"
    tar -C "$work/top" -cf "$work/top.tar" .
    echo two >"$work/top/opt/course/file"
    tar -C "$work/top" -cf "$work/top2.tar" .
fi
for kind in none gzip; do
    [[ -d $work/oci-$kind ]] || oci_layout "$work/oci-$kind" $kind "$tar"
    [[ -d $work/oci-$kind-1 ]] || oci_layout "$work/oci-$kind-1" $kind "$tar" "$work/top.tar"
    # The second one has the first one's blobs, as a layout has that an image is built into again.
    [[ -d $work/oci-$kind-2 ]] || { cp -al "$work/oci-$kind-1" "$work/oci-$kind-2" && rm "$work/oci-$kind-2/index.json"; }
    [[ -f $work/oci-$kind-2/index.json ]] || oci_layout "$work/oci-$kind-2" $kind "$tar" "$work/top2.tar"
done

export builder peer tar work size bytes
export out=$work/out.ext4 mnt=$work/mnt tree=$work/tree

# median NAME BEFORE COMMAND: runs BEFORE untimed and COMMAND timed.
median() {
    local name=$1 before=$2 command=$3 line
    for _ in $(seq "$runs"); do
        bash -c "$before" >/dev/null 2>&1
        sync
        /usr/bin/time -o "$work/time" -f '%e %U %S %M' bash -euc "$command" >/dev/null 2>"$work/errors" || {
            echo "$name failed: $(tail -1 "$work/errors")" >&2
            return
        }
        awk '{ printf "%.3f %.2f %.0f\n", $1, $2 + $3, $4 / 1024 }' "$work/time"
    done >"$work/runs"
    line=$(sort -n "$work/runs" | sed -n "$(((runs + 1) / 2))p")
    # shellcheck disable=SC2086
    printf '%-52s %9s s %8s s %8s MiB\n' "$name" $line
}

loop='mkfs.ext4 -q -F "$out" $size && mkdir -p "$mnt" && mount -o loop "$out" "$mnt" && %s; umount "$mnt" && sync "$out"'
clean='rm -rf "$out" "$tree"; ! mountpoint -q "$mnt" || umount "$mnt"'
ours() { echo "CLARATEACH_CACHE_DIR=$1 \"\$builder\" --image oci:\"\$work/$2\" --output \"\$out\" --size \$size"; }

echo "$(nproc) cores, image of $(($(stat -c %s "$tar") >> 20)) MiB as tar, $(($(stat -c %s "$tar.gz") >> 20)) MiB as gzip"
printf '%-52s %11s %10s %12s\n' "" wall CPU memory
median "rootfs-builder, plain" "$clean" "$(ours off oci-none)"
# shellcheck disable=SC2059
median "mkfs.ext4 + loop mount + tar -x, plain" "$clean" "$(printf "$loop" 'tar -C "$mnt" --numeric-owner -xpf "$tar"')"
median "tar -x + mke2fs -d, plain" "$clean" \
    'mkdir "$tree" && tar -C "$tree" --numeric-owner -xpf "$tar" && mke2fs -q -F -t ext4 -d "$tree" "$out" $size && sync "$out"'
median "arcbox-ext4, plain" "$clean" '"$peer" "$tar" "$out" $bytes && sync "$out"'
median "rootfs-builder, gzip" "$clean" "$(ours off oci-gzip)"
# shellcheck disable=SC2059
median "mkfs.ext4 + loop mount + tar -xz, gzip" "$clean" "$(printf "$loop" 'tar -C "$mnt" --numeric-owner -xzpf "$tar.gz"')"
median "arcbox-ext4, gzip" "$clean" '"$peer" "$tar.gz" "$out" $bytes && sync "$out"'
cache=$work/cache
for kind in none gzip; do
    median "rootfs-builder, $kind, first build into a cache" "$clean; rm -rf $cache" "$(ours "$cache" oci-$kind-1)"
    median "rootfs-builder, $kind, top layer changed" "$(ours "$cache" oci-$kind-1)" "$(ours "$cache" oci-$kind-2)"
    median "rootfs-builder, $kind, unchanged" "$(ours "$cache" oci-$kind-2)" "$(ours "$cache" oci-$kind-2)"
done
if docker info >/dev/null 2>&1; then
    docker import "$tar" rootfs-bench:latest >/dev/null
    container=$(docker create rootfs-bench:latest true)
    export container
    trap 'docker rm "$container" >/dev/null; docker rmi rootfs-bench:latest >/dev/null' EXIT
    median "rootfs-builder, from the Docker daemon" "$clean" \
        'CLARATEACH_CACHE_DIR=off "$builder" --image rootfs-bench:latest --output "$out" --size $size'
    # shellcheck disable=SC2059
    median "docker export | mkfs.ext4 + loop mount + tar -x" "$clean" \
        "$(printf "$loop" 'docker export "$container" | tar -C "$mnt" --numeric-owner -xpf -')"
fi
bash -c "$clean"
