#!/usr/bin/env bash
# One image of about 1 GB as an ext4 filesystem, by rootfs-builder and by everything that people use instead, in one run.
#
# Prints a table: median wall time, CPU time and peak memory of RUNS runs (3). Every row ends with the image synced to disk.
# The rows of a group take turns, so that a machine that is slower for a while is so for all of them; "ratio" is the median,
# over the turns, of a row's wall time to that of the first row of its group.
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

names=() befores=() commands=()
# row NAME BEFORE COMMAND: adds a row to the group. BEFORE runs untimed, COMMAND timed.
row() {
    names+=("$1") befores+=("$2") commands+=("$3")
}

# middle: the median of the lines, by their first number.
middle() {
    sort -n | sed -n "$(((runs + 1) / 2))p"
}

# group: runs all rows in turns, and prints them.
group() {
    local turn row
    rm -rf "$work/rows" && mkdir "$work/rows"
    for turn in $(seq "$runs"); do
        for row in "${!names[@]}"; do
            [[ ! -f $work/rows/$row.failed ]] || continue
            bash -c "${befores[row]}" >/dev/null 2>&1
            sync
            /usr/bin/time -o "$work/time" -f '%e %U %S %M' bash -euc "${commands[row]}" >/dev/null 2>"$work/errors" || {
                echo "${names[row]} failed: $(tail -1 "$work/errors")" >&2
                touch "$work/rows/$row.failed"
                continue
            }
            awk '{ printf "%.3f %.2f %.0f\n", $1, $2 + $3, $4 / 1024 }' "$work/time" >>"$work/rows/$row"
        done
    done
    for row in "${!names[@]}"; do
        [[ ! -f $work/rows/$row.failed ]] || continue
        # shellcheck disable=SC2046
        printf '%-52s %9s s %8s s %8s MiB' "${names[row]}" $(middle <"$work/rows/$row")
        # A wall time of zero is one that is too short to be told.
        [[ $row == 0 || -f $work/rows/0.failed ]] || printf ' %8s' \
            "$(paste -d' ' "$work/rows/$row" "$work/rows/0" | awk '{ printf "%.2f\n", $1 / ($4 > 0 ? $4 : 0.01) }' | middle)"
        printf '\n'
    done
    names=() befores=() commands=()
}

loop='mkfs.ext4 -q -F "$out" $size && mkdir -p "$mnt" && mount -o loop "$out" "$mnt" && %s; umount "$mnt" && sync "$out"'
clean='rm -rf "$out" "$tree"; ! mountpoint -q "$mnt" || umount "$mnt"'
ours() { echo "CLARATEACH_CACHE_DIR=$1 \"\$builder\" --image oci:\"\$work/$2\" --output \"\$out\" --size \$size"; }

echo "$(nproc) cores, image of $(($(stat -c %s "$tar") >> 20)) MiB as tar, $(($(stat -c %s "$tar.gz") >> 20)) MiB as gzip"
printf '%-52s %11s %10s %12s %8s\n' "" wall CPU memory ratio
row "rootfs-builder, plain" "$clean" "$(ours off oci-none)"
# shellcheck disable=SC2059
row "mkfs.ext4 + loop mount + tar -x, plain" "$clean" "$(printf "$loop" 'tar -C "$mnt" --numeric-owner -xpf "$tar"')"
row "tar -x + mke2fs -d, plain" "$clean" \
    'mkdir "$tree" && tar -C "$tree" --numeric-owner -xpf "$tar" && mke2fs -q -F -t ext4 -d "$tree" "$out" $size && sync "$out"'
row "arcbox-ext4, plain" "$clean" '"$peer" "$tar" "$out" $bytes && sync "$out"'
group
row "rootfs-builder, gzip" "$clean" "$(ours off oci-gzip)"
# shellcheck disable=SC2059
row "mkfs.ext4 + loop mount + tar -xz, gzip" "$clean" "$(printf "$loop" 'tar -C "$mnt" --numeric-owner -xzpf "$tar.gz"')"
row "arcbox-ext4, gzip" "$clean" '"$peer" "$tar.gz" "$out" $bytes && sync "$out"'
group
cache=$work/cache
for kind in none gzip; do
    row "rootfs-builder, $kind, first build into a cache" "$clean; rm -rf $cache" "$(ours "$cache" oci-$kind-1)"
    row "rootfs-builder, $kind, top layer changed" "$(ours "$cache" oci-$kind-1)" "$(ours "$cache" oci-$kind-2)"
    row "rootfs-builder, $kind, unchanged" "$(ours "$cache" oci-$kind-2)" "$(ours "$cache" oci-$kind-2)"
    group
done
if docker info >/dev/null 2>&1; then
    docker import "$tar" rootfs-bench:latest >/dev/null
    container=$(docker create rootfs-bench:latest true)
    export container
    trap 'docker rm "$container" >/dev/null; docker rmi rootfs-bench:latest >/dev/null' EXIT
    row "rootfs-builder, from the Docker daemon" "$clean" \
        'CLARATEACH_CACHE_DIR=off "$builder" --image rootfs-bench:latest --output "$out" --size $size'
    # shellcheck disable=SC2059
    row "docker export | mkfs.ext4 + loop mount + tar -x" "$clean" \
        "$(printf "$loop" 'docker export "$container" | tar -C "$mnt" --numeric-owner -xpf -')"
    group
fi
bash -c "$clean"
