//! What a session makes of kinds that are not to be had.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::*;
use crate::cluster::{ClusterCidr, DesiredState, InternalTrafficPolicy};

/// A session in which only services and their slices are not listed yet, as the configuration names all networks.
fn begun() -> (Session, Known) {
    let network = |kind, cidr: &str| ClusterCidr {
        kind,
        cidr: cidr.parse().unwrap(),
        source: "command line".to_owned(),
    };
    let rules = Rules {
        explicit: vec![
            network(CidrKind::Pod, "10.244.0.0/16"),
            network(CidrKind::Service, "10.96.0.0/12"),
        ],
        internal_traffic_policy: InternalTrafficPolicy::Ignore,
    };
    (session(), Known::new(rules))
}

fn session() -> Session {
    Session {
        missing: BTreeSet::from([Kind::Service, Kind::EndpointSlice]),
        refused: BTreeMap::new(),
    }
}

fn metadata(name: &str) -> ObjectMeta {
    ObjectMeta {
        namespace: Some("default".to_owned()),
        name: Some(name.to_owned()),
        ..ObjectMeta::default()
    }
}

fn services() -> Message {
    let service = Service {
        metadata: metadata("echo"),
        spec: Some(ServiceSpec {
            cluster_ip: Some("10.96.1.1".to_owned()),
            ports: Some(vec![ServicePort {
                port: 80,
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    };
    Message::Change(Change::Replace(Kind::Service, vec![service.into()]))
}

fn slices() -> Message {
    let slice = EndpointSlice {
        address_type: "IPv4".to_owned(),
        metadata: ObjectMeta {
            labels: Some(BTreeMap::from([(
                "kubernetes.io/service-name".to_owned(),
                "echo".to_owned(),
            )])),
            ..metadata("echo-1")
        },
        endpoints: Some(vec![Endpoint {
            addresses: vec!["10.244.1.7".to_owned()],
            ..Endpoint::default()
        }]),
        ports: Some(vec![EndpointPort {
            port: Some(8080),
            ..EndpointPort::default()
        }]),
    };
    Message::Change(Change::Replace(Kind::EndpointSlice, vec![slice.into()]))
}

/// Pods alone are bridged, services are kube-proxy's, and the operator is told.
#[track_caller]
fn has_pods_alone(state: &DesiredState, why: &str) {
    assert_eq!(state.cidrs.len(), 2);
    assert!(state.services.is_empty(), "{:?}", state.services);
    assert!(!state.authoritative);
    let [problem] = &state.problems[..] else {
        panic!("{:?}", state.problems);
    };
    assert!(problem.what.contains(why), "{problem}");
    assert!(problem.what.contains("kube-proxy"), "{problem}");
    assert!(!problem.remedy.is_empty());
}

#[track_caller]
fn has_the_service(state: &DesiredState) {
    assert!(state.authoritative);
    assert_eq!(state.problems, []);
    let backends: Vec<_> = state
        .services
        .values()
        .flat_map(|service| &service.backends)
        .collect();
    assert_eq!(backends.len(), 1, "{:?}", state.services);
}

#[test]
fn without_slices_pods_are_bridged_and_services_taken_up_when_they_come() {
    let (mut session, mut known) = begun();
    session.note(services(), &mut known);
    session.note(Message::Absent(Kind::EndpointSlice, None), &mut known);
    assert!(session.missing.is_empty() && session.refused.is_empty());
    assert!(known.update());
    has_pods_alone(&known.desired(), "no discovery.k8s.io/v1");
    // The same again, half a minute later, is no news.
    session.note(Message::Absent(Kind::EndpointSlice, None), &mut known);
    assert!(!known.update());
    session.note(slices(), &mut known);
    assert!(known.update());
    has_the_service(&known.desired());
}

#[test]
fn what_may_not_be_seen_is_as_good_as_not_there() {
    for kind in [Kind::Service, Kind::EndpointSlice] {
        let (mut session, mut known) = begun();
        let why = format!("forbids us to see {kind} (403)");
        session.note(Message::Refused(kind, why.clone()), &mut known);
        assert!(
            !session.missing.is_empty(),
            "nothing is said before it is certain"
        );
        for other in [services(), slices()] {
            if !matches!(&other, Message::Change(Change::Replace(other, _)) if *other == kind) {
                session.note(other, &mut known);
            }
        }
        session.note(Message::Absent(kind, Some(why.clone())), &mut known);
        assert!(session.missing.is_empty() && session.refused.is_empty());
        has_pods_alone(
            &{
                known.update();
                known.desired()
            },
            &why,
        );
        for message in [services(), slices()] {
            session.note(message, &mut known);
        }
        assert!(known.update());
        has_the_service(&known.desired());
    }
}

#[test]
fn services_that_were_known_stay_when_they_can_not_be_read_any_more() {
    for why in [None, Some("forbidden (403)".to_owned())] {
        let (mut first, mut known) = begun();
        first.note(services(), &mut known);
        first.note(slices(), &mut known);
        assert!(known.update());
        // The API server has come back as another version, or with other roles.
        let mut next = session();
        next.note(services(), &mut known);
        next.note(Message::Absent(Kind::EndpointSlice, why), &mut known);
        assert!(next.missing.contains(&Kind::EndpointSlice));
        assert!(
            next.refused[&Kind::EndpointSlice].contains("40"),
            "{:?}",
            next.refused
        );
        assert!(!known.update());
        has_the_service(&known.desired());
        next.note(slices(), &mut known);
        assert!(next.missing.is_empty() && next.refused.is_empty());
        has_the_service(&known.desired());
    }
}

#[test]
fn networks_that_can_not_be_discovered_leave_services_as_they_are() {
    let (mut session, mut known) = begun();
    session.note(services(), &mut known);
    session.note(slices(), &mut known);
    session.note(Message::Absent(Kind::ServiceCidr, None), &mut known);
    known.update();
    has_the_service(&known.desired());
    let why = Some("forbidden (403)".to_owned());
    session.note(Message::Absent(Kind::ConfigMap, why), &mut known);
    assert!(known.update());
    let state = known.desired();
    assert!(state.authoritative && !state.services.is_empty());
    assert_eq!(state.problems.len(), 1);
}
