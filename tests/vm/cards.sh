# XDP between two cards whose driver can do everything (virtio): asked for by nobody, taken all the same.
ip netns add office
ip netns add worker
ip link set dev "$(card 01)" name u0
ip link set dev "$(card 03)" name w0
far_end "$(card 02)" office o0
far_end "$(card 04)" worker p0
wire_up
start auto
xdp_works u0 || fail "no XDP on u0"
xdp_works w0 || fail "no XDP on w0"
reaches "between two cards"
[ "$(by_xdp)" -ge 20 ] || fail "requests did not go by XDP"
[ "$(by_xdp_to_clients)" -ge 20 ] || fail "replies did not go by XDP"

# A card that leaves tags on may have VLANs: XDP sees them.
ip link add link u0 name u0.7 type vlan id 7
ip addr add 10.70.0.30/24 dev u0.7
ip link set u0.7 up
ip -n office link add link o0 name o0.7 type vlan id 7
ip -n office addr add 10.70.0.1/24 dev o0.7
ip -n office link set o0.7 up
in_office ping -q -c 1 -W 5 10.70.0.30 > /dev/null || fail "no VLAN"
ip -n office route add 10.244.1.7/32 via 10.70.0.30 src "$OFFICE_HOST"
sleep 2
xdp_works u0 || fail "XDP stopped for a VLAN that it sees"
before=$(by_xdp)
seen=$(cat /sys/class/net/u0.7/statistics/rx_packets)
in_office ping -q -c 20 -i 0.05 -W 1 -I "$OFFICE_HOST" 10.244.1.7 > /dev/null || true
[ "$(($(cat /sys/class/net/u0.7/statistics/rx_packets) - seen))" -ge 20 ] || fail "tagged packets are missing on the VLAN"
[ "$(by_xdp)" = "$before" ] || fail "XDP took packets of a VLAN"
ip link del u0.7

stop
reaches "after the process ended"
uninstalled
