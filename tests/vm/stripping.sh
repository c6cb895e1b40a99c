# A real driver that takes VLAN tags off (vmxnet3, with XDP since Linux 6.6).
if [ "$(uname -r | awk -F. '{ print $1 * 100 + $2 }')" -lt 606 ] || ! modprobe vmxnet3; then
    echo "no vmxnet3 with XDP in this kernel"
    exit 77
fi
ip netns add office
ip netns add worker
ip link set dev "$(card 05)" name u0
ip link set dev "$(card 03)" name w0
far_end "$(card 06)" office o0
far_end "$(card 04)" worker p0
wire_up
ethtool -K u0 rxvlan on
vlan
vlan_in_office
cure="ethtool -K u0 rxvlan off"
refused "no XDP on u0: .* u0.7 .*$cure"

start auto
tells "problem: no XDP on u0: .* u0.7 .*$cure" || fail "status doesn't say what to do"
grep -q "WARN no XDP on u0: .* u0.7 .*$cure" "$log" || fail "the log doesn't say what to do"
no_xdp u0 || fail "XDP on u0"
reaches "by TC"
vlan_is_apart

ethtool -K u0 rxvlan off
within 20 xdp_works u0 || fail "no XDP on a card that leaves tags on"
tells_not "problem: no XDP on u0" || fail "it still tells of the VLAN"
reaches "by XDP"
before=$(by_xdp)
reaches "by XDP"
[ "$(by_xdp)" -gt "$before" ] || fail "requests did not go by XDP"
vlan_is_apart

ethtool -K u0 rxvlan on
within 20 xdp_rests u0 || fail "XDP takes packets on a card that takes tags off"
vlan_is_apart
reaches "by TC again"
stop
uninstalled
