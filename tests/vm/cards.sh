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
vlan
vlan_in_office
sleep 2
xdp_works u0 || fail "XDP stopped for a VLAN that it sees"
vlan_is_apart
ip link del u0.7

stop
reaches "after the process ended"
uninstalled
