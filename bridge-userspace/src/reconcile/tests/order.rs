//! In which order tables are written.

use std::time::Instant;

use bridge_common::abi::{Affinity, AffinityKey, BackendKey, FastPath, Service, capacity, name};
use ipnet::Ipv4Net;

use super::fake_tables::{Failing, Fixture, READ_AT, table};
use super::wanted::{Wanted, backend, cluster, office, pods, service};
use crate::maps::TableError;
use crate::reconcile::diff::{Diff, Step};
use crate::reconcile::write::Write;

#[test]
fn what_makes_packets_ours_comes_after_all_that_they_need() {
    let mut fixture = Fixture::new();
    fixture.apply(&Wanted::rich()).unwrap();
    let mut tables: Vec<&str> = fixture.writes().iter().map(table).collect();
    tables.dedup();
    let is_service = |table: &&str| [name::BACKENDS, name::SERVICES].contains(table);
    let services = tables.iter().position(is_service).unwrap();
    let (before, rest) = tables.split_at(services);
    let after: Vec<&str> = rest.iter().copied().skip_while(is_service).collect();
    assert_eq!(before[..2], [name::NAT_PORTS, name::SETTINGS]);
    assert!(
        before[2..before.len() - 2]
            .iter()
            .all(|table| [name::NEXT_HOPS, name::VTEP_FDB].contains(table))
    );
    assert_eq!(before[before.len() - 2..], [name::ROUTES, name::FAST_PATH]);
    assert_eq!(
        after,
        [
            name::SETTINGS,
            name::CLUSTER_CIDRS,
            name::FAST_PATH,
            name::OFFICE_CIDRS
        ]
    );
}

#[test]
fn a_new_service_network_is_ours_when_its_services_are_there() {
    let mut wanted = Wanted::rich();
    let mut fixture = Fixture::with(&wanted);
    wanted.services.insert(9, (vec![8], 0));
    wanted.cluster.insert(98);
    fixture.apply(&wanted).unwrap();
    let writes = fixture.writes();
    assert!(matches!(
        &writes[..],
        [
            Write::Backend { .. },
            Write::Service { .. },
            Write::ClusterCidr { .. },
            Write::FastPath(_),
        ]
    ));
}

#[test]
fn unknown_services_are_rejected_when_all_that_are_known_are_there() {
    let mut wanted = Wanted {
        is_authoritative: false,
        ..Wanted::rich()
    };
    let mut fixture = Fixture::with(&wanted);
    wanted.is_authoritative = true;
    wanted.services.insert(9, (vec![], 0));
    fixture.apply(&wanted).unwrap();
    assert_eq!(tables(&mut fixture), [name::SERVICES, name::SETTINGS]);
    // And no more as soon as one may be missing.
    wanted.is_authoritative = false;
    wanted.services.remove(&9);
    fixture.apply(&wanted).unwrap();
    assert_eq!(tables(&mut fixture), [name::SETTINGS, name::SERVICES]);
}

#[test]
fn a_list_is_whole_before_its_service_points_to_it_and_goes_when_none_does() {
    let mut wanted = Wanted::rich();
    let mut fixture = Fixture::with(&wanted);
    let old = fixture.tables.image.services[&service(1)].id;
    let new = fixture.applied.last_list_id + 1;
    wanted.services.insert(1, (vec![2, 5], 600));
    fixture.apply(&wanted).unwrap();
    let at = |service_id, slot| BackendKey { service_id, slot };
    let put = |slot, last| Write::Backend {
        key: at(new, slot),
        backend: backend(last),
    };
    let changed = Write::Service {
        key: service(1),
        service: Service {
            id: new,
            backend_count: 2,
            affinity_seconds: 600,
            ..Service::default()
        },
    };
    let removed = |slot| Write::RemoveBackend(at(old, slot));
    assert_eq!(
        fixture.writes(),
        [
            put(0, 2),
            put(1, 5),
            changed,
            removed(0),
            removed(1),
            removed(2)
        ]
    );
    wanted.services.remove(&1);
    fixture.apply(&wanted).unwrap();
    let removed = |slot| Write::RemoveBackend(at(new, slot));
    assert_eq!(
        fixture.writes(),
        [Write::RemoveService(service(1)), removed(0), removed(1)]
    );
}

#[test]
fn the_datapath_chooses_from_no_nat_port_that_goes_or_is_yet_to_come() {
    let mut wanted = Wanted::rich();
    let mut fixture = Fixture::with(&wanted);
    wanted.reserved.insert(5);
    fixture.apply(&wanted).unwrap();
    let writes = fixture.writes();
    assert!(matches!(&writes[0], Write::Settings(settings) if settings.nat_port_count == 11));
    assert!(
        writes[1..]
            .iter()
            .all(|write| table(write) == name::NAT_PORTS)
    );
    wanted.reserved.remove(&5);
    fixture.apply(&wanted).unwrap();
    let mut writes = fixture.writes();
    assert!(
        matches!(writes.pop(), Some(Write::Settings(settings)) if settings.nat_port_count == 12)
    );
    assert!(!writes.is_empty());
    assert!(writes.iter().all(|write| table(write) == name::NAT_PORTS));
}

#[test]
fn a_changed_neighbour_is_written_before_its_route_and_the_epoch_comes_last() {
    let mut wanted = Wanted::rich();
    let mut fixture = Fixture::with(&wanted);
    let before = fixture.tables.image.clone();
    wanted.routes.insert(1, Some((99, 31)));
    fixture.apply(&wanted).unwrap();
    let writes = fixture.writes();
    let [
        Write::NextHop { number, next_hop },
        Write::Route { prefix, route },
        Write::FastPath(fast_path),
    ] = &writes[..]
    else {
        panic!("{writes:?}");
    };
    assert!(!before.next_hops.contains_key(number));
    assert_eq!(next_hop.destination[5], 99);
    assert_eq!((*prefix, route.next_hop), (pods(1), *number));
    assert_eq!(
        **fast_path,
        FastPath {
            epoch: before.fast_path.epoch + 1,
            ..before.fast_path
        }
    );
}

#[test]
fn a_changed_tunnel_end_is_written_before_the_next_hop_that_leads_to_it() {
    let mut wanted = Wanted::rich();
    let mut fixture = Fixture::with(&wanted);
    wanted.routes.insert(1, Some((31, 35)));
    fixture.apply(&wanted).unwrap();
    assert_eq!(
        tables(&mut fixture),
        [
            name::VTEP_FDB,
            name::NEXT_HOPS,
            name::ROUTES,
            name::FAST_PATH
        ]
    );
}

#[test]
fn a_retired_number_is_cleared_a_second_after_the_epoch_and_then_given_again() {
    let mut wanted = Wanted::rich();
    let mut fixture = Fixture::with(&wanted);
    let number = |fixture: &Fixture| fixture.tables.image.routes[&pods(1)].next_hop;
    let retired = number(&fixture);
    wanted.routes.insert(1, Some((99, 35)));
    fixture.apply(&wanted).unwrap();
    fixture.writes();
    fixture.after(999).apply(&wanted).unwrap();
    assert_eq!(fixture.writes(), []);
    assert!(fixture.after(1).apply(&wanted).unwrap().is_empty());
    let writes = fixture.writes();
    assert!(
        matches!(writes[..], [Write::ClearNextHop(hop), Write::ClearVtep(_)] if hop == retired)
    );
    wanted.routes.insert(1, Some((98, 35)));
    fixture.apply(&wanted).unwrap();
    assert_eq!(number(&fixture), retired);
}

#[test]
fn a_next_hop_that_comes_back_has_its_number_and_is_quarantined_anew_when_it_goes_again() {
    let mut there = Wanted::rich();
    let mut fixture = Fixture::with(&there);
    let number = |fixture: &Fixture| fixture.tables.image.routes[&pods(1)].next_hop;
    let first = number(&fixture);
    let back = there.clone();
    there.routes.insert(1, Some((99, 35)));
    fixture.apply(&there).unwrap();
    fixture.after(600).apply(&back).unwrap();
    assert_eq!(number(&fixture), first);
    fixture.after(600).apply(&there).unwrap();
    fixture.writes();
    // The first time that it went is two seconds ago by then, the second a bit less than one.
    fixture.after(999).apply(&there).unwrap();
    assert_eq!(fixture.writes(), []);
}

#[test]
fn the_epoch_makes_up_for_a_process_that_ended_before_it() {
    let mut wanted = Wanted::rich();
    let mut fixture = Fixture::with(&wanted);
    let epoch = fixture.tables.image.fast_path.epoch;
    wanted.routes.insert(1, Some((99, 31)));
    // The next hop and the route are written, the epoch is not.
    fixture.fail(Failing::Only(2));
    fixture.apply(&wanted).unwrap_err();
    fixture.heal();
    fixture.restart();
    fixture.apply(&wanted).unwrap();
    assert_eq!(fixture.tables.image.fast_path.epoch, epoch + 1);
    fixture.restart();
    fixture.after(60_000).apply(&wanted).unwrap();
    assert_eq!(
        fixture.tables.image.fast_path.epoch,
        epoch + 2,
        "as the old hop is still there"
    );
    fixture.after(1_000).apply(&wanted).unwrap();
    fixture.restart();
    fixture.apply(&wanted).unwrap();
    assert_eq!(fixture.tables.image.fast_path.epoch, epoch + 2);
}

#[test]
fn to_renew_the_lease_is_one_write_and_no_change() {
    let wanted = Wanted::rich().map_state();
    let mut fixture = Fixture::with(&Wanted::rich());
    assert!(fixture.apply_read_at(&wanted, READ_AT).unwrap().is_empty());
    assert_eq!(fixture.writes(), []);
    assert!(
        fixture
            .apply_read_at(&wanted, READ_AT + 10)
            .unwrap()
            .is_empty()
    );
    let writes = fixture.writes();
    assert!(
        matches!(&writes[..], [Write::FastPath(fast_path)] if fast_path.valid_until == READ_AT + 40)
    );
}

#[test]
fn clients_are_forgotten_when_their_service_is_written() {
    let mut wanted = Wanted::rich();
    let mut fixture = Fixture::with(&wanted);
    for last in 1..=3 {
        let key = client(last);
        let affinity = Affinity {
            backend: backend(last),
            last_used: 1,
        };
        fixture.tables.affinity.insert(key, affinity);
    }
    wanted.services.insert(1, (vec![1, 3, 4], 600));
    fixture.apply(&wanted).unwrap();
    assert_eq!(
        fixture.writes().last(),
        Some(&Write::RemoveAffinity(client(2)))
    );
    wanted.services.insert(1, (vec![1, 3, 4], 0));
    fixture.apply(&wanted).unwrap();
    assert!(fixture.tables.affinity.is_empty());
}

#[test]
fn nobody_is_looked_for_where_no_service_with_affinity_has_changed() {
    let mut wanted = Wanted::rich();
    let fixture = Fixture::with(&wanted);
    wanted.services.insert(2, (vec![5], 600));
    let diff = Diff::new(
        &fixture.applied,
        &wanted.map_state(),
        READ_AT,
        Instant::now(),
    );
    assert!(!diff.steps.contains(&Step::ForgetClients));
    wanted.services.insert(1, (vec![1], 600));
    let diff = Diff::new(
        &fixture.applied,
        &wanted.map_state(),
        READ_AT,
        Instant::now(),
    );
    assert!(diff.steps.contains(&Step::ForgetClients));
}

#[test]
fn offices_that_go_are_no_clients_any_more_before_the_last_write() {
    let mut wanted = Wanted::rich();
    let mut fixture = Fixture::with(&wanted);
    wanted.office = [1].into();
    wanted.cluster = [244].into();
    fixture.apply(&wanted).unwrap();
    let writes = fixture.writes();
    assert_eq!(writes[0], Write::RemoveClusterCidr(cluster(96).0));
    assert_eq!(writes[2..], [Write::RemoveOfficeCidr(office(0).0)]);
}

#[test]
fn another_process_finds_what_was_written() {
    let mut fixture = Fixture::with(&Wanted::rich());
    fixture.restart();
    fixture.apply(&Wanted::rich()).unwrap();
    assert_eq!(fixture.writes(), []);
    // The ids of its lists are new.
    let used = fixture.applied.last_list_id;
    fixture.apply(&Wanted::changed()).unwrap();
    assert!(fixture.applied.last_list_id > used);
}

#[test]
fn lists_that_no_service_has_are_removed() {
    let mut fixture = Fixture::with(&Wanted::rich());
    let orphan = BackendKey {
        service_id: 77,
        slot: 3,
    };
    let left_over = [(orphan.slot, backend(1))].into();
    let lists = &mut fixture.tables.image.backends;
    lists.insert(orphan.service_id, left_over);
    fixture.restart();
    fixture.apply(&Wanted::rich()).unwrap();
    assert_eq!(fixture.writes(), [Write::RemoveBackend(orphan)]);
}

#[test]
fn more_networks_than_fit_keep_only_what_follows_from_being_written() {
    let mut fixture = Fixture::new();
    let mut wanted = Wanted::rich().map_state();
    let (_, office) = office(0);
    wanted.office = (0..=u16::try_from(capacity::OFFICE_CIDRS).unwrap())
        .map(|number| {
            let [high, low] = number.to_be_bytes();
            (Ipv4Net::new_assert([172, high, low, 0].into(), 24), office)
        })
        .collect();
    assert!(matches!(
        fixture.apply_read_at(&wanted, READ_AT),
        Err(TableError::TooMany {
            table: name::OFFICE_CIDRS,
            ..
        })
    ));
    assert_eq!(fixture.tables.image.cluster, wanted.cluster);
    assert!(fixture.tables.image.office.is_empty());
    assert_eq!(fixture.tables.image.settings, wanted.settings);
}

fn tables(fixture: &mut Fixture) -> Vec<&'static str> {
    fixture.writes().iter().map(table).collect()
}

fn client(last: u8) -> AffinityKey {
    AffinityKey {
        client: [192, 168, 0, last],
        service: service(1),
    }
}
