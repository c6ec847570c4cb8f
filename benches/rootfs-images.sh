# shellcheck shell=bash
# Images to measure and compare with, made from Debian packages and from nothing else. Sourced by the other scripts.

# oci_layout DIR gzip|zstd|none TAR…: an OCI image layout with these layers, the lowest first.
oci_layout() {
    local dir=$1 compression=$2 diff_ids="" layers="" tar diff blob digest size
    shift 2
    mkdir -p "$dir/blobs/sha256"
    for tar in "$@"; do
        diff=$(sha256sum <"$tar" | cut -d' ' -f1)
        blob=$dir/blobs/tmp
        case $compression in
        gzip) gzip -6 -n <"$tar" >"$blob" ;;
        zstd) zstd -q -3 <"$tar" >"$blob" ;;
        *) cp "$tar" "$blob" ;;
        esac
        digest=$(sha256sum <"$blob" | cut -d' ' -f1)
        size=$(stat -c %s "$blob")
        if [[ -f $dir/blobs/sha256/$digest ]]; then rm "$blob"; else mv "$blob" "$dir/blobs/sha256/$digest"; fi
        diff_ids+="${diff_ids:+,}\"sha256:$diff\""
        layers+="${layers:+,}{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar\",\"digest\":\"sha256:$digest\",\"size\":$size}"
    done
    local config="{\"created\":\"2026-01-02T03:04:05Z\",\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[$diff_ids]}}"
    local config_digest manifest manifest_digest
    config_digest=$(put_blob "$dir" "$config")
    manifest="{\"schemaVersion\":2,\"config\":{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\"digest\":\"sha256:$config_digest\",\"size\":${#config}},\"layers\":[$layers]}"
    manifest_digest=$(put_blob "$dir" "$manifest")
    printf '{"imageLayoutVersion":"1.0.0"}' >"$dir/oci-layout"
    printf '{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:%s","size":%d}]}' \
        "$manifest_digest" "${#manifest}" >"$dir/index.json"
}

put_blob() {
    local digest
    digest=$(printf %s "$2" | sha256sum | cut -d' ' -f1)
    printf %s "$2" >"$1/blobs/sha256/$digest"
    echo "$digest"
}
