# XDP on a bond runs on the cards in it.
cables_of_veth
ip link add s0 type veth peer name s1
ip link set s0 down
# The module makes one by itself.
ip link del bond0 2> /dev/null || true
ip link add bond0 type bond mode active-backup
ip addr flush dev u0
ip link set u0 down
ip link set u0 master bond0
ip link set s0 master bond0
ip link set bond0 up
ip addr add 10.60.20.30/24 dev bond0
ip route add 192.168.0.0/22 via 10.60.20.1
uplink=bond0
refused "no XDP on bond0: it is a bond"
start auto
tells "problem: no XDP on bond0: it is a bond" || fail "it doesn't tell of the bond"
no_xdp bond0 || fail "XDP on the bond"
reaches "through a bond, by TC"
stop
uninstalled
