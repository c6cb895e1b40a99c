# VLAN tags that are off the packets before XDP sees them.
cables_of_veth
in_office ethtool -K o0 gro on
in_worker ethtool -K p0 gro on
vlan_in_office
in_office ethtool -K o0 txvlan on

vlan
refused "those for u0.7 would pass for untagged ones; remove u0.7, or use --datapath tc"
ip link del u0.7

start xdp
reaches "without a VLAN"
vlan
sleep 1
vlan_is_apart
within 5 tells "problem: no XDP on u0: .* u0.7 " || fail "it doesn't tell of the VLAN"
xdp_rests u0 || fail "XDP still takes packets on u0"
reaches "beside a VLAN, by TC"

ip link del u0.7
within 5 tells_not "problem: no XDP on u0" || fail "it still tells of the VLAN"
reaches "after the VLAN"
stop
uninstalled
