use std::collections::BTreeSet;
use std::path::Path;

use proptest::prelude::*;

use std::sync::Arc;

use ipnet::Ipv4Net;

use super::*;

fn objects(yaml: &str) -> Objects {
    manifests::parse::objects(Path::new("test.yaml"), yaml)
        .unwrap_or_else(|error| panic!("{error}"))
        .into_iter()
        .collect()
}

fn rules(explicit: &[ClusterCidr]) -> Rules {
    Rules {
        explicit: explicit.to_vec(),
        internal_traffic_policy: InternalTrafficPolicy::Ignore,
    }
}

fn state(yaml: &str) -> DesiredState {
    state_of(objects(yaml))
}

fn state_of(objects: Objects) -> DesiredState {
    desired_state(objects, &rules(&[]))
}

fn cidr_rows(state: &DesiredState) -> Vec<String> {
    state
        .cidrs
        .iter()
        .map(|cidr| format!("{} {} {}", cidr.kind, cidr.cidr, cidr.source))
        .collect()
}

fn service_rows(state: &DesiredState) -> Vec<String> {
    state
        .services
        .iter()
        .map(|(address, service)| {
            let backends: Vec<String> = service.backends.iter().map(ToString::to_string).collect();
            format!("{address} {} [{}]", service.name, backends.join(" "))
        })
        .collect()
}

const NODES: &str = "
apiVersion: v1
kind: Node
metadata: {name: node-30}
spec: {podCIDR: 10.244.30.0/24, podCIDRs: [10.244.30.0/24, 'fd00:244:30::/64']}
---
apiVersion: v1
kind: Node
metadata: {name: worker-1}
spec: {podCIDR: 10.244.1.0/24}
";

const SERVICE_CIDR: &str = "
---
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [10.96.0.0/12, 'fd00:96::/112']}
";

const KUBEADM: &str = "
---
apiVersion: v1
kind: ConfigMap
metadata: {name: kubeadm-config, namespace: kube-system}
data:
  ClusterConfiguration: |
    apiVersion: kubeadm.k8s.io/v1beta4
    kind: ClusterConfiguration
    kubernetesVersion: v1.34.0
    networking:
      dnsDomain: cluster.local
      podSubnet: 10.244.0.0/16,fd00:244::/56
      serviceSubnet: 10.112.0.0/16
";

/// A service with one port `http` 80 and one slice per list of endpoints.
fn web(endpoints: &[&str]) -> String {
    use std::fmt::Write;

    let mut yaml = "
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.7.7
  clusterIPs: [10.96.7.7, 'fd00:96::7']
  ports: [{name: http, port: 80, targetPort: web, protocol: TCP}]
"
    .to_owned();
    for (index, endpoints) in endpoints.iter().enumerate() {
        write!(
            yaml,
            "
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-{index}
  namespace: shop
  labels: {{kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{{name: http, port: 8080, protocol: TCP}}]
endpoints: {endpoints}
"
        )
        .unwrap();
    }
    yaml
}

#[test]
fn pods_come_from_the_nodes_if_nobody_else_says() {
    let state = state(&[NODES, SERVICE_CIDR].concat());
    assert_eq!(
        cidr_rows(&state),
        [
            "pod 10.244.1.0/24 Node worker-1 spec.podCIDRs",
            "pod 10.244.30.0/24 Node node-30 spec.podCIDRs",
            "service 10.96.0.0/12 ServiceCIDR kubernetes",
        ]
    );
    assert_eq!(state.problems, []);
}

#[test]
fn kubeadm_wins_over_the_nodes_but_not_over_service_cidrs() {
    assert_eq!(
        cidr_rows(&state(&[NODES, SERVICE_CIDR, KUBEADM].concat())),
        [
            "pod 10.244.0.0/16 kubeadm-config networking.podSubnet",
            "service 10.96.0.0/12 ServiceCIDR kubernetes",
        ]
    );
    assert_eq!(
        cidr_rows(&state(&[NODES, KUBEADM].concat())),
        [
            "pod 10.244.0.0/16 kubeadm-config networking.podSubnet",
            "service 10.112.0.0/16 kubeadm-config networking.serviceSubnet",
        ]
    );
}

#[test]
fn explicit_networks_win_per_kind() {
    let explicit = [ClusterCidr {
        kind: CidrKind::Pod,
        cidr: "10.244.0.0/15".parse().unwrap(),
        source: "command line".to_owned(),
    }];
    let state = desired_state(
        objects(&[NODES, SERVICE_CIDR, KUBEADM].concat()),
        &rules(&explicit),
    );
    assert_eq!(
        cidr_rows(&state),
        [
            "pod 10.244.0.0/15 command line",
            "service 10.96.0.0/12 ServiceCIDR kubernetes",
        ]
    );
}

#[test]
fn no_network_is_inferred_from_addresses_in_use() {
    let state = state(&web(&["[{addresses: [10.244.1.5]}]"]));
    assert!(state.cidrs.is_empty());
    assert!(
        state.problems[0]
            .what
            .starts_with("no service CIDR is known")
    );
}

#[test]
fn a_network_that_is_none_is_reported_and_left_out() {
    let state = state(
        "
apiVersion: v1
kind: Node
metadata: {name: worker-9}
spec: {podCIDRs: [10.244.9.1/24]}
",
    );
    assert!(state.cidrs.is_empty());
    assert_eq!(
        whats(&state),
        [
            "Node worker-9 spec.podCIDRs: `10.244.9.1/24` is a host's address; its network is \
          10.244.9.0/24"
        ]
    );
}

#[test]
fn a_kubeadm_config_that_does_not_parse_is_reported_and_passed_over() {
    let broken = KUBEADM.replace("networking:", "networking: [");
    let state = state(&[NODES, &broken].concat());
    assert_eq!(cidr_rows(&state).len(), 2);
    assert!(
        state.problems[0]
            .what
            .contains("kube-system/kubeadm-config")
    );
}

#[test]
fn static_knows_the_networks_and_leaves_services_to_others() {
    let explicit = [ClusterCidr {
        kind: CidrKind::Service,
        cidr: "10.96.0.0/12".parse().unwrap(),
        source: "command line".to_owned(),
    }];
    let state = static_state(&rules(&explicit));
    assert_eq!(state.cidrs, explicit);
    assert!(state.services.is_empty() && !state.authoritative);
}

#[test]
fn a_discovered_pod_network_inside_the_office_is_a_conflict() {
    let state = state(NODES);
    let office: Ipv4Net = "10.244.0.0/16".parse().unwrap();
    let error = state.conflicts_with_office(&[office])[0].to_string();
    assert!(error.contains("office CIDR 10.244.0.0/16"), "{error}");
    assert!(error.contains("Node worker-1 spec.podCIDRs"), "{error}");
    assert_eq!(
        state.conflicts_with_office(&["192.168.0.0/22".parse().unwrap()]),
        []
    );
}

#[test]
fn a_network_that_contradicts_others_is_left_out_and_the_rest_is_followed() {
    let state = state(&[NODES, SERVICE_CIDR].concat());
    let office: Ipv4Net = "10.244.1.0/24".parse().unwrap();
    let followed = state.without_conflicts(&[office], &[]);
    assert_eq!(followed.conflicts_with_office(&[office]), []);
    assert_eq!(followed.cidrs.len(), state.cidrs.len() - 1);
    assert_eq!(followed.services, state.services);
    let [problem] = &followed.problems[..] else {
        panic!("{:?}", followed.problems)
    };
    assert!(
        problem.what.contains("office CIDR 10.244.1.0/24"),
        "{problem}"
    );
    // What people have configured is not for the cluster to overrule.
    let explicit = &state.cidrs[..1];
    let whole = ["10.0.0.0/8".parse().unwrap()];
    let followed = state.without_conflicts(&whole, explicit);
    assert_eq!(followed.cidrs, explicit);
    assert!(!followed.conflicts_with_office(&whole).is_empty());
}

#[test]
fn endpoints_of_many_slices_are_one_service() {
    let state = state(
        &[
            SERVICE_CIDR,
            &web(&[
                "[{addresses: [10.244.2.9]}, {addresses: [10.244.1.5]}]",
                "[{addresses: [10.244.1.5]}, {addresses: [10.244.1.4]}]",
            ]),
        ]
        .concat(),
    );
    assert_eq!(
        service_rows(&state),
        ["10.96.7.7:80/tcp web [10.244.1.4:8080 10.244.1.5:8080 10.244.2.9:8080]"]
    );
    assert!(state.authoritative);
    assert_eq!(state.problems, []);
}

#[test]
fn an_endpoint_without_a_word_about_readiness_is_ready() {
    let state = state(&web(&["[{addresses: [10.244.1.5], conditions: {}}]"]));
    assert_eq!(
        service_rows(&state),
        ["10.96.7.7:80/tcp web [10.244.1.5:8080]"]
    );
}

#[test]
fn terminating_endpoints_serve_only_when_none_is_ready() {
    let draining =
        "{addresses: [10.244.1.5], conditions: {ready: false, serving: true, terminating: true}}";
    let gone =
        "{addresses: [10.244.1.6], conditions: {ready: false, serving: false, terminating: true}}";
    let starting =
        "{addresses: [10.244.1.7], conditions: {ready: false, serving: false, terminating: false}}";
    let ready = "{addresses: [10.244.1.8]}";
    assert_eq!(
        service_rows(&state(&web(&[
            &format!("[{draining}, {gone}]"),
            &format!("[{starting}]")
        ]))),
        ["10.96.7.7:80/tcp web [10.244.1.5:8080]"]
    );
    assert_eq!(
        service_rows(&state(&web(&[
            &format!("[{draining}, {gone}]"),
            &format!("[{ready}]")
        ]))),
        ["10.96.7.7:80/tcp web [10.244.1.8:8080]"]
    );
}

#[test]
fn what_is_established_goes_on_with_every_endpoint_but_those_that_have_ended() {
    let draining =
        "{addresses: [10.244.1.5], conditions: {ready: false, serving: true, terminating: true}}";
    let gone =
        "{addresses: [10.244.1.6], conditions: {ready: false, serving: false, terminating: true}}";
    let starting =
        "{addresses: [10.244.1.7], conditions: {ready: false, serving: false, terminating: false}}";
    let ready = "{addresses: [10.244.1.8]}";
    let state = state(&web(&[
        &format!("[{draining}, {gone}]"),
        &format!("[{starting}, {ready}]"),
    ]));
    let service = state.services.values().next().unwrap();
    let row = |backends: &[Backend]| -> Vec<String> {
        backends.iter().map(ToString::to_string).collect()
    };
    assert_eq!(row(&service.backends), ["10.244.1.8:8080"]);
    assert_eq!(
        row(&service.alive),
        ["10.244.1.5:8080", "10.244.1.7:8080", "10.244.1.8:8080"]
    );
}

#[test]
fn an_endpoint_in_two_slices_is_one_and_ready_if_either_says_so() {
    let ready = "[{addresses: [10.244.1.5], conditions: {ready: true}}]";
    let moved =
        "[{addresses: [10.244.1.5], conditions: {ready: false, serving: true, terminating: true}}]";
    let state = state(&web(&[moved, ready]));
    let service = state.services.values().next().unwrap();
    assert_eq!(service.backends.len(), 1);
    assert_eq!(service.alive, service.backends);
}

#[test]
fn session_affinity_lasts_three_hours_unless_told_otherwise_and_a_day_at_most() {
    let affinity = |fields: &str| {
        let yaml = web(&[]).replace(
            "clusterIP: 10.96.7.7",
            &format!("clusterIP: 10.96.7.7\n  {fields}"),
        );
        let state = state(&yaml);
        state.services.values().next().unwrap().affinity_seconds
    };
    let timeout = |seconds: i32| {
        affinity(&format!(
            "sessionAffinity: ClientIP\n  sessionAffinityConfig: {{clientIP: {{timeoutSeconds: {seconds}}}}}"
        ))
    };
    assert_eq!(affinity("sessionAffinity: None"), None);
    assert_eq!(affinity("type: ClusterIP"), None);
    assert_eq!(affinity("sessionAffinity: ClientIP"), Some(10_800));
    assert_eq!(timeout(60), Some(60));
    assert_eq!(timeout(100_000), Some(86_400));
    assert_eq!(timeout(0), Some(10_800));
}

/// Two services with `internalTrafficPolicy: Local`, each with an endpoint on either node.
fn local_services() -> String {
    let one = web(&[
        "[{addresses: [10.244.1.5], nodeName: worker-1}, {addresses: [10.244.30.5], nodeName: node-30}]",
    ])
    .replace("clusterIP:", "internalTrafficPolicy: Local\n  clusterIP:");
    let other = one
        .replace("name: web", "name: api")
        .replace("service-name: web", "service-name: api")
        .replace("10.96.7.7", "10.96.7.8");
    [NODES, SERVICE_CIDR, &one, &other].concat()
}

#[test]
fn a_local_traffic_policy_is_ignored_and_told_once() {
    let state = state(&local_services());
    assert_eq!(
        service_rows(&state),
        [
            "10.96.7.7:80/tcp web [10.244.1.5:8080 10.244.30.5:8080]",
            "10.96.7.8:80/tcp api [10.244.1.5:8080 10.244.30.5:8080]",
        ]
    );
    assert_eq!(state.problems.len(), 1, "{:?}", state.problems);
    assert!(
        state.problems[0]
            .what
            .contains("internalTrafficPolicy: Local")
    );
}

#[test]
fn a_local_traffic_policy_that_is_honored_leads_to_this_node_or_nowhere() {
    let on = |node: &str| {
        let rules = Rules {
            explicit: Vec::new(),
            internal_traffic_policy: InternalTrafficPolicy::Honor {
                node: node.to_owned(),
            },
        };
        desired_state(objects(&local_services()), &rules)
    };
    let here = on("node-30");
    assert_eq!(
        service_rows(&here),
        [
            "10.96.7.7:80/tcp web [10.244.30.5:8080]",
            "10.96.7.8:80/tcp api [10.244.30.5:8080]",
        ]
    );
    assert!(
        here.services
            .values()
            .all(|service| service.alive.len() == 1)
    );
    assert_eq!(here.problems, []);
    let unknown = on("node-31");
    assert_eq!(
        service_rows(&unknown),
        ["10.96.7.7:80/tcp web []", "10.96.7.8:80/tcp api []"]
    );
    assert!(unknown.problems[0].what.contains("no node `node-31`"));
}

#[test]
fn a_service_without_endpoints_is_known_and_has_no_backend() {
    assert_eq!(service_rows(&state(&web(&[]))), ["10.96.7.7:80/tcp web []"]);
    assert_eq!(
        service_rows(&state(&web(&["[]"]))),
        ["10.96.7.7:80/tcp web []"]
    );
    // As `kubectl get -o yaml` prints a slice that has become empty.
    assert_eq!(
        service_rows(&state(&web(&["null"]))),
        ["10.96.7.7:80/tcp web []"]
    );
}

#[test]
fn ports_are_matched_by_name_and_protocol() {
    let yaml = "
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10]
  ports:
  - {name: dns, port: 53, targetPort: 53, protocol: UDP}
  - {name: dns-tcp, port: 53, targetPort: 53, protocol: TCP}
  - {name: metrics, port: 9153, targetPort: 9153, protocol: TCP}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: kube-dns-x
  namespace: kube-system
  labels: {kubernetes.io/service-name: kube-dns}
addressType: IPv4
ports:
- {name: dns-tcp, port: 1053, protocol: TCP}
- {name: metrics, port: 9153, protocol: UDP}
- {name: dns, port: 1054, protocol: UDP}
endpoints: [{addresses: [10.244.1.2]}]
";
    assert_eq!(
        service_rows(&state(yaml)),
        [
            "10.96.0.10:53/tcp kube-dns [10.244.1.2:1053]",
            "10.96.0.10:53/udp kube-dns [10.244.1.2:1054]",
            "10.96.0.10:9153/tcp kube-dns []",
        ]
    );
}

#[test]
fn a_nameless_port_matches_a_nameless_port() {
    let yaml = web(&["[{addresses: [10.244.1.5]}]"]).replace("name: http, ", "");
    assert_eq!(
        service_rows(&state(&yaml)),
        ["10.96.7.7:80/tcp web [10.244.1.5:8080]"]
    );
    let unlike = web(&["[{addresses: [10.244.1.5]}]"]).replacen("name: http, ", "", 1);
    assert_eq!(service_rows(&state(&unlike)), ["10.96.7.7:80/tcp web []"]);
}

#[test]
fn services_that_are_not_ours_are_left_out() {
    for change in [
        (
            "clusterIP: 10.96.7.7\n  clusterIPs: [10.96.7.7, 'fd00:96::7']",
            "clusterIP: None",
        ),
        (
            "clusterIP: 10.96.7.7\n  clusterIPs: [10.96.7.7, 'fd00:96::7']",
            "clusterIP: None\n  clusterIPs: [None]",
        ),
        (
            "clusterIPs: [10.96.7.7,",
            "type: ExternalName\n  clusterIPs: [10.96.7.7,",
        ),
        (
            "namespace: shop}\nspec",
            "namespace: shop, labels: {service.kubernetes.io/service-proxy-name: lb}}\nspec",
        ),
        ("protocol: TCP}]\n", "protocol: SCTP}]\n"),
    ] {
        let yaml = web(&["[{addresses: [10.244.1.5]}]"]);
        let changed = yaml.replacen(change.0, change.1, 1);
        assert_ne!(yaml, changed);
        assert_eq!(
            service_rows(&state(&changed)),
            Vec::<String>::new(),
            "{changed}"
        );
    }
}

#[test]
fn slices_of_other_services_families_and_namespaces_do_not_count() {
    for change in [
        ("service-name: web", "service-name: web2"),
        ("namespace: shop\n  labels", "namespace: stage\n  labels"),
        ("addressType: IPv4", "addressType: FQDN"),
        ("addressType: IPv4", "addressType: IPv6"),
    ] {
        let yaml = web(&["[{addresses: [10.244.1.5]}]"]);
        let changed = yaml.replacen(change.0, change.1, 1);
        assert_ne!(yaml, changed);
        assert_eq!(
            service_rows(&state(&changed)),
            ["10.96.7.7:80/tcp web []"],
            "{changed}"
        );
    }
}

#[test]
fn external_and_load_balancer_addresses_are_no_vips() {
    let yaml = web(&[]).replacen(
        "spec:\n  clusterIP",
        "status: {loadBalancer: {ingress: [{ip: 10.60.20.99}]}}\nspec:\n  type: LoadBalancer\n  \
         externalIPs: [10.60.20.98]\n  clusterIP",
        1,
    );
    assert_eq!(service_rows(&state(&yaml)), ["10.96.7.7:80/tcp web []"]);
}

#[test]
fn two_services_on_one_address_are_reported_and_the_first_by_name_wins() {
    let second = web(&[]).replace("name: web,", "name: web2,");
    let state = state(&[SERVICE_CIDR, &second, &web(&[])].concat());
    assert_eq!(service_rows(&state), ["10.96.7.7:80/tcp web []"]);
    assert_eq!(
        whats(&state),
        ["Service shop/web2: 10.96.7.7:80/tcp already belongs to Service shop/web"]
    );
}

#[test]
fn a_vip_outside_the_service_networks_is_forwarded_by_itself_and_reported() {
    let yaml = [SERVICE_CIDR, &web(&[])]
        .concat()
        .replace("10.96.7.7", "10.200.7.7");
    let state = state(&yaml);
    assert_eq!(
        whats(&state),
        [
            "Service shop/web: cluster IP 10.200.7.7 is in no service CIDR and is forwarded by itself"
        ]
    );
    let networks: Vec<_> = state.cidrs_of(CidrKind::Service).collect();
    let [inside, alone] = ["10.96.0.0/12", "10.200.7.7/32"].map(|cidr| cidr.parse().unwrap());
    assert_eq!(networks, [inside, alone]);
}

#[test]
fn more_than_64_vips_outside_are_not_forwarded() {
    let services: String = (0..70)
        .map(|n| {
            web(&[])
                .replace("name: web,", &format!("name: web{n},"))
                .replace("10.96.7.7", &format!("10.200.7.{n}"))
        })
        .collect();
    let state = state(&[SERVICE_CIDR, &services].concat());
    assert_eq!(state.cidrs_of(CidrKind::Service).count(), 1 + 64);
    let unreachable = whats(&state)
        .iter()
        .filter(|what| what.ends_with("stays unreachable, as there are too many such"))
        .count();
    assert_eq!(unreachable, 6);
}

#[derive(Debug, Clone)]
struct Fake {
    address: u8,
    slice: u8,
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

fn fakes() -> impl Strategy<Value = Vec<Fake>> {
    let fake = (
        1u8..20,
        0u8..4,
        any::<Option<bool>>(),
        any::<Option<bool>>(),
        any::<Option<bool>>(),
    )
        .prop_map(|(address, slice, ready, serving, terminating)| Fake {
            address,
            slice,
            ready,
            serving,
            terminating,
        });
    proptest::collection::vec(fake, 0..30)
}

fn fake_objects(fakes: &[Fake], order: &[u8]) -> Objects {
    let slices: Vec<String> = order
        .iter()
        .map(|slice| {
            let endpoints: Vec<String> = fakes
                .iter()
                .filter(|fake| fake.slice == *slice)
                .map(|fake| {
                    let condition = |name: &str, value: Option<bool>| {
                        value.map_or(String::new(), |value| format!("{name}: {value}, "))
                    };
                    format!(
                        "{{addresses: [10.244.1.{}], conditions: {{{}{}{}}}}}",
                        fake.address,
                        condition("ready", fake.ready),
                        condition("serving", fake.serving),
                        condition("terminating", fake.terminating),
                    )
                })
                .collect();
            format!("[{}]", endpoints.join(", "))
        })
        .collect();
    let slices: Vec<&str> = slices.iter().map(String::as_str).collect();
    objects(&web(&slices))
}

fn replacements(yaml: &str) -> Vec<Change> {
    let all = manifests::parse::objects(Path::new("test.yaml"), yaml).unwrap();
    [
        Kind::Node,
        Kind::Service,
        Kind::EndpointSlice,
        Kind::ServiceCidr,
        Kind::ConfigMap,
    ]
    .into_iter()
    .map(|kind| {
        let of_kind = all.iter().filter(|object| object.kind() == kind);
        Change::Replace(kind, of_kind.cloned().collect())
    })
    .collect()
}

fn api(address: &str) -> String {
    web(&[&format!("[{{addresses: [{address}]}}]")])
        .replace("name: web", "name: api")
        .replace("service-name: web", "service-name: api")
        .replace("10.96.7.7", "10.96.7.8")
}

#[test]
fn a_new_list_takes_away_what_has_vanished_and_leaves_the_rest_as_it_is() {
    let mut deriver = derive::Deriver::new(rules(&[]));
    let web = web(&["[{addresses: [10.244.1.5]}]"]);
    for change in replacements(&[NODES, SERVICE_CIDR, &web, &api("10.244.1.6")].concat()) {
        deriver.apply(change);
    }
    assert!(deriver.update());
    let before = deriver.state(&[]);
    assert_eq!(before.services.len(), 2);

    let after = [NODES, SERVICE_CIDR, &web].concat();
    for change in replacements(&after) {
        deriver.apply(change);
    }
    assert!(deriver.update());
    let now = deriver.state(&[]);
    assert_eq!(now, state(&after));
    let kept = now.services.keys().next().unwrap();
    assert!(Arc::ptr_eq(&now.services[kept], &before.services[kept]));

    for change in replacements(&after) {
        deriver.apply(change);
    }
    assert!(!deriver.update(), "the same list again is no change");
}

#[test]
fn what_changes_one_by_one_adds_up_to_the_same_as_all_at_once() {
    let mut deriver = derive::Deriver::new(rules(&[]));
    let steps = [
        api("10.244.1.6"),
        NODES.to_owned(),
        web(&["[{addresses: [10.244.1.5]}]", "[{addresses: [10.244.1.9]}]"]),
        SERVICE_CIDR.to_owned(),
        api("10.244.1.7"),
    ];
    for step in steps {
        for object in manifests::parse::objects(Path::new("test.yaml"), &step).unwrap() {
            deriver.apply(Change::Put(object));
        }
        deriver.update();
    }
    let key = |name: &str| Key {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
    };
    deriver.apply(Change::Remove(Kind::EndpointSlice, key("web-1")));
    deriver.apply(Change::Remove(Kind::Service, key("nowhere")));
    deriver.update();
    let whole = [
        NODES,
        SERVICE_CIDR,
        &web(&["[{addresses: [10.244.1.5]}]"]),
        &api("10.244.1.7"),
    ]
    .concat();
    assert_eq!(deriver.state(&[]), state(&whole));
}

#[test]
fn a_slice_that_moves_to_another_service_leaves_the_first() {
    let mut deriver = derive::Deriver::new(rules(&[]));
    let both = [
        SERVICE_CIDR,
        &web(&["[{addresses: [10.244.1.5]}]"]),
        &api("10.244.1.6"),
    ]
    .concat();
    for change in replacements(&both) {
        deriver.apply(change);
    }
    deriver.update();
    let moved = both.replace("service-name: web", "service-name: api");
    for object in manifests::parse::objects(Path::new("test.yaml"), &moved).unwrap() {
        deriver.apply(Change::Put(object));
    }
    deriver.update();
    assert_eq!(
        service_rows(&deriver.state(&[])),
        [
            "10.96.7.7:80/tcp web []",
            "10.96.7.8:80/tcp api [10.244.1.5:8080 10.244.1.6:8080]",
        ]
    );
}

#[test]
fn services_of_one_name_in_two_namespaces_keep_to_their_own_slices() {
    let other = web(&["[{addresses: [10.244.2.5]}]"])
        .replace("namespace: shop", "namespace: other")
        .replace("10.96.7.7", "10.96.7.9");
    let state = state(&[SERVICE_CIDR, &web(&["[{addresses: [10.244.1.5]}]"]), &other].concat());
    assert_eq!(
        service_rows(&state),
        [
            "10.96.7.7:80/tcp web [10.244.1.5:8080]",
            "10.96.7.9:80/tcp web [10.244.2.5:8080]",
        ]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn backends_are_the_ready_ones_or_else_the_draining_ones(fakes in fakes()) {
        let state = state_of(fake_objects(&fakes, &[0, 1, 2, 3]));
        let service = state.services.values().next().unwrap();
        let pick = |wanted: &dyn Fn(&Fake) -> bool| -> BTreeSet<u8> {
            fakes.iter().filter(|fake| wanted(fake)).map(|fake| fake.address).collect()
        };
        let ready = pick(&|fake| fake.ready != Some(false));
        let draining = pick(&|fake| {
            fake.ready == Some(false) && fake.serving != Some(false) && fake.terminating == Some(true)
        });
        let expected = if ready.is_empty() { draining } else { ready };
        let found: Vec<u8> = service.backends.iter().map(|b| b.address.octets()[3]).collect();
        prop_assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
        let ended = |fake: &Fake| fake.ready == Some(false) && fake.terminating == Some(true) && fake.serving == Some(false);
        let alive: Vec<u8> = service.alive.iter().map(|b| b.address.octets()[3]).collect();
        prop_assert_eq!(alive, pick(&|fake| !ended(fake)).into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn the_order_and_grouping_of_slices_makes_no_difference(
        fakes in fakes(),
        order in Just([0u8, 1, 2, 3]).prop_shuffle(),
        regroup in any::<[u8; 30]>(),
    ) {
        let first = state_of(fake_objects(&fakes, &[0, 1, 2, 3]));
        prop_assert_eq!(&state_of(fake_objects(&fakes, &order)), &first);
        let mut regrouped = fakes.clone();
        for (fake, slice) in regrouped.iter_mut().zip(regroup) {
            fake.slice = slice % 4;
        }
        prop_assert_eq!(&state_of(fake_objects(&regrouped, &order)), &first);
    }
}

/// What is wrong, sentence by sentence.
fn whats(state: &DesiredState) -> Vec<&str> {
    let problems = state.problems.iter();
    problems.map(|problem| problem.what.as_str()).collect()
}
