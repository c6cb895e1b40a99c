# XDP asked for on veths. A kernel before 6.3 doesn't tell whether their peers take what XDP sends, so TC does all the work;
# later ones do tell.
cables_of_veth
in_office ethtool -K o0 gro on
in_worker ethtool -K p0 gro on
start xdp
if [ "$(uname -r | awk -F. '{ print $1 * 100 + $2 }')" -ge 603 ]; then
    xdp_works u0 || fail "no XDP on u0"
    reaches "by XDP"
    [ "$(by_xdp)" -ge 20 ] || fail "requests did not go by XDP"
    in_office ethtool -K o0 gro off
    in_worker ethtool -K p0 gro off
    within 20 tells "u0 receives by XDP and can't send by it" || fail "a peer without GRO is not told"
else
    in_office ethtool -K o0 gro off
    in_worker ethtool -K p0 gro off
    reaches "by TC"
    xdp_rests u0 || fail "XDP takes packets on a veth"
    tells "u0 is a veth, and this kernel (before 6.3) doesn't tell" || fail "not told why"
fi
before=$(by_xdp)
reaches "by TC"
[ "$(by_xdp)" = "$before" ] || fail "XDP sent what its peer doesn't take"
stop
uninstalled
