//! Names of the tables, at most 15 characters (`BPF_OBJ_NAME_LEN` less its NUL).

/// Office networks, [`super::OfficeCidr`] by longest prefix.
pub const OFFICE_CIDRS: &str = "office_cidrs";
/// Pod and service networks and our NAT addresses, [`super::ClusterCidr`] by longest prefix.
pub const CLUSTER_CIDRS: &str = "cluster_cidrs";
/// The kernel's routes as the bridge mirrors them, [`super::Route`] by longest prefix.
pub const ROUTES: &str = "routes";
/// [`super::NextHop`] by the number that [`super::Route::next_hop`] gives.
pub const NEXT_HOPS: &str = "next_hops";
/// [`super::Vtep`] by the number that [`super::NextHop::vtep`] gives: the VXLAN devices' FDBs.
pub const VTEP_FDB: &str = "vtep_fdb";
/// One [`super::FastPath`].
pub const FAST_PATH: &str = "fast_path";
/// [`super::ServiceKey`] to [`super::Service`].
pub const SERVICES: &str = "services";
/// [`super::BackendKey`] to [`super::Backend`].
pub const BACKENDS: &str = "backends";
/// [`super::AffinityKey`] to [`super::Affinity`].
pub const AFFINITY: &str = "affinity";
/// [`super::FlowKey`] to [`super::Flow`]: client to backend.
pub const FLOWS: &str = "flows";
/// [`super::ReplyKey`] to [`super::Reply`]: backend to client.
pub const REPLIES: &str = "replies";
/// [`super::FragmentKey`] to [`super::Fragment`].
pub const FRAGMENTS: &str = "fragments";
/// [`super::NatPort`] by port number.
pub const NAT_PORTS: &str = "nat_ports";
/// [`super::Counter`] per CPU by [`crate::counters::Count`].
pub const COUNTERS: &str = "counters";
/// One [`super::Settings`].
pub const SETTINGS: &str = "settings";
/// One [`super::AnswerTokens`] per CPU.
pub const ANSWER_TOKENS: &str = "answer_tokens";
/// Ring buffer of [`super::Event`].
pub const EVENTS: &str = "events";
/// One program, that opens flows for `xdp_fast`.
pub const XDP_NEXT: &str = "xdp_next";
/// The same for `xdp_fast_frags`.
pub const XDP_NEXT_FRAGS: &str = "xdp_next_frags";
