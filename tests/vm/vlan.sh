# VLAN tags that are off the packets before XDP sees them.
cables_of_veth
in_office ethtool -K o0 gro on
in_worker ethtool -K p0 gro on
vlan() {
    ip link add link u0 name u0.7 type vlan id 7
    ip addr add 10.70.0.30/24 dev u0.7
    ip link set u0.7 up
}
ip -n office link add link o0 name o0.7 type vlan id 7
ip -n office addr add 10.70.0.1/24 dev o0.7
ip -n office link set o0.7 up
in_office ethtool -K o0 txvlan on

vlan
refused "those for u0.7 would pass for untagged ones; remove u0.7, or use --datapath tc"
ip link del u0.7

start xdp
reaches "without a VLAN"
vlan
in_office ping -q -c 1 -W 5 10.70.0.30 > /dev/null || fail "no VLAN"
within 5 tells "problem: no XDP on u0: .* u0.7 " || fail "it doesn't tell of the VLAN"
xdp_rests u0 || fail "XDP still takes packets on u0"
ip -n office route add 10.244.1.7/32 via 10.70.0.30 src "$OFFICE_HOST"
before=$(by_xdp)
seen=$(cat /sys/class/net/u0.7/statistics/rx_packets)
in_office ping -q -c 20 -i 0.05 -W 1 -I "$OFFICE_HOST" 10.244.1.7 > /dev/null || true
[ "$(($(cat /sys/class/net/u0.7/statistics/rx_packets) - seen))" -ge 20 ] || fail "tagged packets are missing on the VLAN"
[ "$(by_xdp)" = "$before" ] || fail "XDP took packets of a VLAN"
reaches "beside a VLAN, by TC"

ip link del u0.7
within 5 tells_not "problem: no XDP on u0" || fail "it still tells of the VLAN"
reaches "after the VLAN"
stop
uninstalled
