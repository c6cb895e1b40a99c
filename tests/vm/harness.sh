# What the tests here have in common. They run one after the other as root in a machine of their own, whose cards are joined
# in pairs: `near` to `far`, by the last byte of their Ethernet addresses.
#
# The host itself is the node. What is behind the cables are namespaces: `office`, with a host of the office and the router
# in front of it, and `worker`, with a pod.

OFFICE_HOST=192.168.0.10
POD=10.244.1.2
log=/tmp/log
status=/tmp/status
bridge=

fail() {
    echo "FAILED: $*"
    office-bridge status || true
    echo "--- log"
    cat "$log"
    exit 1
}

# The interface whose Ethernet address ends in a byte.
card() {
    ip -o link | sed -n "s/^[0-9]*: \([^:@]*\).*link\/ether 52:54:00:00:00:$1 .*/\1/p"
}

in_office() { ip netns exec office "$@"; }
in_worker() { ip netns exec worker "$@"; }

# Moves one end of a cable to a namespace.
far_end() { # interface namespace name
    ip link set dev "$1" down
    ip link set dev "$1" name "$3" netns "$2"
    ip -n "$2" link set dev "$3" up
    ip -n "$2" link set dev lo up
}

# What is called u0 and w0 at this end, o0 and p0 at the others, becomes a node with an office and a worker.
wire_up() {
    ip link set u0 up
    ip link set w0 up
    ip addr add 10.60.20.30/24 dev u0
    ip route add 192.168.0.0/22 via 10.60.20.1
    ip addr add 10.60.21.30/24 dev w0
    ip route add 10.244.1.0/24 via 10.60.21.2
    ip -n office addr add 10.60.20.1/24 dev o0
    ip -n office addr add "$OFFICE_HOST/32" dev lo
    ip -n office route add 10.244.0.0/16 via 10.60.20.30 src "$OFFICE_HOST"
    ip -n worker addr add 10.60.21.2/24 dev p0
    ip -n worker addr add "$POD/32" dev lo
    # What gets through got through the bridge.
    echo 0 > /proc/sys/net/ipv4/ip_forward
}

cables_of_veth() {
    ip netns add office
    ip netns add worker
    ip link add u0 type veth peer name far-u
    ip link add w0 type veth peer name far-w
    far_end far-u office o0
    far_end far-w worker p0
    wire_up
}

uplink=u0
arguments() { # datapath
    echo "--uplink $uplink --office-cidr 192.168.0.0/22 --pod-cidr 10.244.0.0/16 --service-cidr 10.96.0.0/12
        --cluster static --no-dns --http-listen 127.0.0.1:9530 --datapath $1"
}

start() { # datapath
    # shellcheck disable=SC2046
    office-bridge run $(arguments "$1") > "$log" 2>&1 &
    bridge=$!
    within 120 is_ready || fail "not ready"
}

stop() {
    kill "$bridge"
    wait "$bridge" || true
    bridge=
}

is_ready() { office-bridge status -o json 2> /dev/null | tr -d ' \n' | grep -q '"ready":true'; }

# Waits until a command succeeds.
within() { # seconds command
    left=$1
    shift
    until "$@"; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || return 1
        sleep 1
    done
}

tells() { office-bridge status > "$status" && grep -q "$1" "$status"; }
tells_not() { office-bridge status > "$status" && ! grep -q "$1" "$status"; }

# Interface and mode of an XDP program, and whether it takes packets.
xdp_works() { tells "^ *$1 .* xdp  *native  *tc *$"; }
xdp_rests() { tells "^ *$1 .* xdp  *native *$"; }
no_xdp() { tells_not "^ *$1 .* xdp "; }

# A VLAN on the cable to the office.
vlan() {
    ip link add link u0 name u0.7 type vlan id 7
    ip addr add 10.70.0.30/24 dev u0.7
    ip link set u0.7 up
}
vlan_in_office() {
    ip -n office link add link o0 name o0.7 type vlan id 7
    ip -n office addr add 10.70.0.1/24 dev o0.7
    ip -n office link set o0.7 up
    ip -n office route add 10.244.1.7/32 via 10.70.0.30 src "$OFFICE_HOST"
}

# Packets to a pod come out of the VLAN that they were sent by, and the bridge has nothing to do with them.
vlan_is_apart() {
    within 5 in_office ping -q -c 1 -W 1 10.70.0.30 > /dev/null || fail "no VLAN"
    before=$(by_xdp)
    seen=$(cat /sys/class/net/u0.7/statistics/rx_packets)
    in_office ping -q -c 20 -i 0.05 -W 1 -I "$OFFICE_HOST" 10.244.1.7 > /dev/null || true
    seen=$(($(cat /sys/class/net/u0.7/statistics/rx_packets) - seen))
    [ "$seen" -ge 20 ] || fail "of 20 tagged packets the VLAN has got $seen"
    [ "$(by_xdp)" = "$before" ] || fail "XDP took packets of a VLAN"
}

# Packets that XDP has forwarded to backends.
by_xdp() { office-bridge status | awk '$1 == "xdp-to-backend" { print $2 }'; }
by_xdp_to_clients() { office-bridge status | awk '$1 == "xdp-to-client" { print $2 }'; }

# The office pings the pod, and gets all answers.
reaches() { # what
    in_office ping -q -c 3 -i 0.2 -W 2 -I "$OFFICE_HOST" "$POD" > /dev/null || true
    in_office ping -q -c 20 -i 0.05 -W 2 -I "$OFFICE_HOST" "$POD" > /tmp/ping || true
    grep -q ' 20 received' /tmp/ping || { cat /tmp/ping; fail "$1"; }
}

# A start that is refused: exit code 2, these words, nothing left behind.
refused() { # words
    code=0
    # shellcheck disable=SC2046
    timeout 60 office-bridge run $(arguments xdp) > "$log" 2>&1 || code=$?
    [ "$code" = 2 ] || fail "exit code $code"
    grep -q "$1" "$log" || fail "it doesn't say: $1"
    [ ! -e /sys/fs/bpf/office-bridge ] || fail "something was left behind"
}

uninstalled() {
    office-bridge uninstall
    [ ! -e /sys/fs/bpf/office-bridge ] || fail "pins are left"
    ! ip link | grep -q xdp || fail "an XDP program is left"
}

clean_up() {
    [ -z "$bridge" ] || stop
    office-bridge uninstall > /dev/null 2>&1 || true
    for namespace in office worker; do
        # Cards come back by themselves.
        ip netns del "$namespace" 2> /dev/null || true
    done
    for made in bond0 u0.7 u0 w0 s0; do
        ip link del "$made" 2> /dev/null || true
    done
    for byte in 01 02 03 04 05 06; do
        name=$(card "$byte")
        [ -n "$name" ] || continue
        ip link set dev "$name" down
        ip addr flush dev "$name"
        ip link set dev "$name" name "card$byte"
    done
}

: > "$log"
trap clean_up EXIT
. "$1"
