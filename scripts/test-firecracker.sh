#!/usr/bin/env bash
# Creates, pings, lists and destroys three VMs through an agent of its own, and leaves nothing behind.
#
#   sudo ./scripts/test-firecracker.sh [--vmm firecracker|qemu]
#
# Settings: PORT (9090), IMAGES_DIR, BRIDGE_NAME, BRIDGE_IP and the agent's others are passed on; AGENT_BIN is an agent
# that is built already; READINESS=ping is for guests without a workspace; VM_VCPUS and VM_MEMORY_MB make VMs of another
# size; VM_SECONDS (60, or 300 with QEMU) is how long one may take until it answers a ping. State and sockets are in a
# temporary directory.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
vmm=${VMM:-firecracker}
while (($#)); do
    case $1 in
    --vmm)
        vmm=${2:-}
        shift $(($# > 1 ? 2 : 1))
        ;;
    -h | --help)
        sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"
        exit 0
        ;;
    *)
        echo "[-] unknown option $1; see $0 --help" >&2
        exit 2
        ;;
    esac
done
case $vmm in
firecracker) name=Firecracker program=${FIRECRACKER_BIN:-firecracker} patience=${VM_SECONDS:-60} ;;
qemu) name=QEMU program=${QEMU_BIN:-qemu-system-x86_64} patience=${VM_SECONDS:-300} ;;
*)
    echo "[-] --vmm takes firecracker or qemu" >&2
    exit 2
    ;;
esac

port=${PORT:-9090}
images=${IMAGES_DIR:-/var/lib/clarateach/images}
bridge=${BRIDGE_NAME:-clarateach0}
bridge_ip=${BRIDGE_IP:-192.168.100.1/24}
workshop=test-$$
agent_pid=
dir=
started=
created=()
# How the names of all VMs of this agent begin: on their command lines, in their control groups.
instances=

say() { echo "[+] $*"; }
fail() {
    echo "[-] $*" >&2
    exit 1
}

api() {
    local method=$1 path=$2
    shift 2
    curl --silent --show-error --fail-with-body --noproxy '*' --max-time $((patience + 30)) -X "$method" \
        -H @"$dir/authorization" "$@" "http://127.0.0.1:$port$path"
}

# Whatever happens: the VMs, the agent, its network, its files.
clean_up() {
    local status=$?
    trap - EXIT
    trap '' INT TERM
    set +e
    if ((status != 0)) && [[ -n $dir && -s $dir/agent.log ]]; then
        echo "[-] The end of the agent's log:" >&2
        tail -n 40 "$dir/agent.log" | sed 's/^/    /' >&2
    fi
    if [[ -n $agent_pid ]] && kill -0 "$agent_pid" 2>/dev/null; then
        for seat in "${created[@]}"; do api DELETE "/vms/$workshop/$seat" >/dev/null 2>&1; done
        kill -TERM "$agent_pid" 2>/dev/null
        for _ in $(seq 300); do kill -0 "$agent_pid" 2>/dev/null || break; sleep 0.1; done
        kill -KILL "$agent_pid" 2>/dev/null
        wait "$agent_pid" 2>/dev/null
    fi
    if [[ -n $started ]]; then
        # An agent that was killed leaves its VMs running.
        find_instances
        for pid in $(vmm_processes); do kill -KILL "$pid" 2>/dev/null; done
        remove_groups
        for tap in $(grep -ao '"tap":"[^"]*"' "$dir/state/journal" 2>/dev/null | cut -d '"' -f 4 | sort -u); do
            ip link delete "$tap" 2>/dev/null
        done
        # With the accepts in other programs' chains, which only the agent knows.
        [[ -n $had_bridge$had_tables ]] || env "${settings[@]}" "$agent" remove-network >/dev/null 2>&1
        [[ -n $had_bridge ]] || ip link delete "$bridge" 2>/dev/null
        [[ -n $had_tables ]] || remove_tables
    fi
    [[ -n $dir ]] && rm -rf -- "$dir"
    exit "$status"
}

find_instances() {
    [[ -n $instances ]] || instances=$(grep -aom 1 '"vm-[0-9a-f]\{8\}-' "$dir/state/journal" 2>/dev/null | tr -d '"' | head -n 1)
}

# The VMMs of this agent's VMs: by executable and by the names on their command lines.
vmm_processes() {
    [[ -n $instances ]] || return 0
    local process
    for process in /proc/[0-9]*; do
        [[ $(readlink "$process/exe" 2>/dev/null) == */"$(basename "$program")"* ]] || continue
        if grep -qaF -- "$instances" "$process/cmdline" 2>/dev/null; then echo "${process#/proc/}"; fi
    done
}

# The control groups of VMs whose VMMs were killed just now.
remove_groups() {
    [[ -n $instances ]] || return 0
    local group
    for group in /sys/fs/cgroup/clarateach/"$instances"* /sys/fs/cgroup/*/clarateach/"$instances"*; do
        [[ -d $group ]] || continue
        for _ in $(seq 50); do rmdir "$group" 2>/dev/null && break || sleep 0.1; done
    done
}

# The families of the tables that bear the bridge's name.
tables() {
    nft list tables 2>/dev/null | awk -v table="$bridge" '$3 == table { print $2 }'
}

remove_tables() {
    local family
    for family in $(tables); do nft delete table "$family" "$bridge" 2>/dev/null; done
}

# What is missing is said with what to do about it.
check_prerequisites() {
    ((EUID == 0)) || fail "Not root: networking and KVM need it. Run: sudo $0"
    local tool
    for tool in curl ip nft ping; do
        command -v "$tool" >/dev/null || fail "$tool not found. Install it: apt-get install curl iproute2 nftables iputils-ping"
    done
    if [[ $vmm == firecracker && ! -w /dev/kvm ]]; then
        fail "KVM not available. Check: ls -la /dev/kvm; install it: sudo apt install qemu-kvm; or run: $0 --vmm qemu"
    fi
    if ! command -v "$program" >/dev/null; then
        [[ $vmm == qemu ]] && fail "QEMU not found. Run: sudo ./scripts/setup-firecracker.sh --vmm qemu"
        fail "Firecracker not found. Run: sudo ./scripts/setup-firecracker.sh"
    fi
    [[ -r $images/vmlinux ]] || fail "vmlinux not found in $images. Run: sudo ./scripts/setup-firecracker.sh$([[ $vmm == qemu ]] && echo ' --vmm qemu')"
    [[ -r $images/rootfs.ext4 ]] || fail "rootfs.ext4 not found in $images. Build the image (scripts/build-workspace-image.sh), then: sudo rootfs-builder --image clarateach-workspace --output $images/rootfs.ext4"
    if curl --silent --noproxy '*' --max-time 2 --output /dev/null "http://127.0.0.1:$port/"; then
        fail "Port $port is in use. See: ss -ltnp 'sport = :$port'; or set PORT"
    fi
}

build_agent() {
    if [[ -n ${AGENT_BIN:-} ]]; then
        [[ -x $AGENT_BIN ]] || fail "AGENT_BIN: $AGENT_BIN can't be run"
        agent=$(realpath -- "$AGENT_BIN")
        return
    fi
    command -v cargo >/dev/null || fail "cargo not found. Install Rust (https://rustup.rs), or set AGENT_BIN"
    cargo build --quiet --release --bin agent || fail "The agent could not be built"
    agent=$(realpath -- "${CARGO_TARGET_DIR:-target}/release/agent")
}

# The static binary that goes into every VM: given, beside the agent and static, or built.
find_workspace() {
    if [[ -n ${WORKSPACE_BIN:-} ]]; then return; fi
    local built
    built=$(compgen -G 'target/guest/*/guest/workspace' | head -n 1) || true
    if [[ -z $built ]]; then
        scripts/build-workspace.sh >/dev/null 2>&1 || fail "The workspace binary could not be built; run: scripts/build-workspace.sh"
        built=$(compgen -G 'target/guest/*/guest/workspace' | head -n 1) || fail "scripts/build-workspace.sh left no binary"
    fi
    WORKSPACE_BIN=$(realpath -- "$built")
    export WORKSPACE_BIN
}

start_agent() {
    had_bridge=
    ip link show "$bridge" >/dev/null 2>&1 && had_bridge=yes
    had_tables=$(tables)
    local token
    token=$(od -An -N 32 -t x1 /dev/urandom | tr -d ' \n')
    (umask 077 && echo "Authorization: Bearer $token" >"$dir/authorization")
    started=yes
    # Its token goes by the environment of this one process: it is in no command line and no file but ours.
    settings=(PORT="$port" BIND_ADDR=127.0.0.1 VMM="$vmm" IMAGES_DIR="$images" BRIDGE_NAME="$bridge" BRIDGE_IP="$bridge_ip"
        STATE_DIR="$dir/state" SOCKET_DIR="$dir/run")
    AGENT_TOKEN=$token env "${settings[@]}" "$agent" >"$dir/agent.log" 2>&1 &
    agent_pid=$!
    for _ in $(seq 300); do
        kill -0 "$agent_pid" 2>/dev/null || { agent_pid= && fail "The agent did not start"; }
        if curl --silent --noproxy '*' --fail --max-time 2 --output /dev/null "http://127.0.0.1:$port/health"; then return; fi
        sleep 0.1
    done
    fail "The agent does not answer on port $port"
}

field() { sed -n "s/.*\"$1\":\"\{0,1\}\([^\",}]*\).*/\1/p" <<<"$2"; }

echo "========================================"
echo "  $name VM Test"
echo "========================================"
echo
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say "Checking prerequisites..."
check_prerequisites
dir=$(mktemp -d "${TMPDIR:-/tmp}/clarateach-test.XXXXXX")
say "Prerequisites OK"

say "Building agent..."
build_agent
find_workspace
say "Agent built"

say "Starting agent on port $port..."
start_agent
say "Agent ready (PID: $agent_pid)"

size=
[[ -n ${VM_VCPUS:-} ]] && size+=", \"vcpus\": $VM_VCPUS"
[[ -n ${VM_MEMORY_MB:-} ]] && size+=", \"memory_mb\": $VM_MEMORY_MB"
say "Creating 3 VMs..."
addresses=()
for seat in 1 2 3; do
    created+=("$seat")
    answer=$(api POST /vms -H 'Content-Type: application/json' -d "{\"workshop_id\": \"$workshop\", \"seat_id\": $seat$size}") ||
        fail "  VM $seat could not be created: $answer"
    address=$(field ip "$answer")
    [[ $address =~ ^[0-9.]+$ ]] || fail "  VM $seat has no address: $answer"
    addresses+=("$address")
    say "  VM $seat created: $address"
done

say "Testing VMs..."
find_instances
# The first VM of a kind changes its VMM when it has been snapshotted.
deadline=$((SECONDS + patience))
until processes=$(vmm_processes | wc -l) && ((processes == 3)); do
    ((SECONDS < deadline)) || fail "  $name processes: $processes instead of 3"
    sleep 0.2
done
say "  $name processes: 3 OK"
for address in "${addresses[@]}"; do
    deadline=$((SECONDS + patience))
    until ping -c 1 -W 1 -n "$address" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || fail "  Ping $address: no answer within $patience s. Check: ip link show $bridge"
    done
    say "  Ping $address: OK"
done
listing=$(api GET "/vms?workshop_id=$workshop") || fail "  API listing: $listing"
listed=$(grep -o '"workshop_id"' <<<"$listing" | wc -l)
((listed == 3)) || fail "  API listing: $listed VMs instead of 3"
say "  API listing: 3 VMs OK"

say "Destroying VMs..."
for seat in 1 2 3; do
    answer=$(api DELETE "/vms/$workshop/$seat") || fail "  VM $seat could not be destroyed: $answer"
    created=("${created[@]:1}")
    say "  VM $seat destroyed"
done

echo
echo "========================================"
say "All tests passed!"
echo "========================================"
