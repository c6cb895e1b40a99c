//! What a write that failed leaves, and that the next diff makes up for it.

use bridge_common::abi::{Affinity, AffinityKey, FastPath, name};

use super::fake_tables::{Failing, Fixture, table};
use super::view::View;
use super::wanted::{Wanted, backend, service};
use crate::maps::TableError;
use crate::reconcile::write::Write;

#[test]
fn wherever_a_write_fails_the_datapath_sees_no_half_of_it_and_the_next_diff_is_what_is_missing() {
    for before in [Wanted::default(), Wanted::rich()] {
        let mut undisturbed = Fixture::with(&before);
        undisturbed.apply(&Wanted::changed()).unwrap();
        let writes = undisturbed.writes();
        assert!(writes.len() > 20);
        for failing in (0..writes.len()).flat_map(|at| [Failing::Only(at), Failing::From(at)]) {
            let mut fixture = Fixture::with(&before);
            fixture.fail(failing);
            // The fixture judges each write.
            fixture.apply(&Wanted::changed()).unwrap_err();
            let first = fixture.writes();
            fixture.heal();
            fixture.apply(&Wanted::changed()).unwrap();
            let second = fixture.writes();
            let (Failing::Only(at) | Failing::From(at)) = failing else {
                unreachable!();
            };
            assert_eq!(first[..at], writes[..at], "{failing:?}");
            // Lists are written again under other ids, and the lease with each epoch.
            let counted =
                |writes: &[Write], name| writes.iter().filter(|write| table(write) == name).count();
            for name in [
                name::ROUTES,
                name::NEXT_HOPS,
                name::NAT_PORTS,
                name::CLUSTER_CIDRS,
            ] {
                let split = counted(&first, name) + counted(&second, name);
                assert_eq!(split, counted(&writes, name), "{name} {failing:?}");
            }
        }
    }
}

#[test]
fn the_same_holds_for_a_process_that_ended_there() {
    let mut undisturbed = Fixture::with(&Wanted::rich());
    undisturbed.apply(&Wanted::changed()).unwrap();
    for at in 0..undisturbed.writes().len() {
        let mut fixture = Fixture::with(&Wanted::rich());
        fixture.fail(Failing::From(at));
        fixture.apply(&Wanted::changed()).unwrap_err();
        fixture.heal();
        fixture.restart();
        fixture.apply(&Wanted::changed()).unwrap();
        fixture.after(1_000).apply(&Wanted::changed()).unwrap();
        let image = &fixture.tables.image;
        let hops = image.next_hops_in_use();
        assert!(image.next_hops.keys().eq(&hops), "{at}");
        assert!(image.vteps.keys().eq(&image.vteps_in_use(&hops)), "{at}");
    }
}

#[test]
fn one_service_that_does_not_fit_keeps_no_other_from_being_followed() {
    let is_refused =
        |write: &Write| matches!(write, Write::Backend { backend: it, .. } if *it == backend(3));
    let mut fixture = Fixture::new();
    fixture.fail(Failing::Those(is_refused));
    let error = fixture.apply(&Wanted::rich()).unwrap_err();
    assert!(matches!(
        error,
        TableError::Full {
            table: name::BACKENDS,
            ..
        }
    ));
    let now = View::of(&fixture.tables.image);
    let mut wanted = View::wanted(&Wanted::rich().map_state());
    wanted.services.remove(&service(1));
    assert_eq!(now, wanted);
    // What was written of its list makes no room unusable.
    assert_eq!(fixture.tables.backend_count(), 1);
    fixture.writes();
    fixture.heal();
    fixture.apply(&Wanted::rich()).unwrap();
    let tables: Vec<_> = fixture.writes().iter().map(table).collect();
    assert_eq!(
        tables,
        [
            name::BACKENDS,
            name::BACKENDS,
            name::BACKENDS,
            name::SERVICES
        ]
    );
}

#[test]
fn a_changed_service_that_does_not_fit_stays_as_it_was() {
    let mut wanted = Wanted::rich();
    let mut fixture = Fixture::with(&wanted);
    wanted.services.insert(1, (vec![5, 6], 600));
    fixture.fail(Failing::Those(|write| {
        matches!(write, Write::Service { .. })
    }));
    fixture.apply(&wanted).unwrap_err();
    assert_eq!(
        View::of(&fixture.tables.image),
        View::wanted(&Wanted::rich().map_state())
    );
    assert_eq!(fixture.tables.backend_count(), 4);
}

#[test]
fn a_list_that_could_not_be_taken_back_goes_with_the_next_diff() {
    let mut wanted = Wanted::rich();
    let mut fixture = Fixture::with(&wanted);
    wanted.services.insert(1, (vec![5, 6], 600));
    // The second backend, and the removal of the first.
    fixture.fail(Failing::From(1));
    fixture.apply(&wanted).unwrap_err();
    assert_eq!(fixture.tables.backend_count(), 5);
    fixture.writes();
    fixture.heal();
    fixture.apply(&wanted).unwrap();
    assert!(matches!(fixture.writes()[0], Write::RemoveBackend(_)));
    assert_eq!(fixture.tables.backend_count(), 3);
}

#[test]
fn nothing_becomes_ours_by_a_diff_whose_routes_could_not_be_written() {
    let mut fixture = Fixture::new();
    fixture.fail(Failing::Those(|write| matches!(write, Write::Route { .. })));
    fixture.apply(&Wanted::rich()).unwrap_err();
    let image = &fixture.tables.image;
    assert!(image.services.is_empty() && image.cluster.is_empty() && image.office.is_empty());
    assert_eq!(image.fast_path, FastPath::default());
    assert_eq!(image.settings.authoritative, 0);
}

#[test]
fn an_epoch_that_could_not_be_written_is_made_up_for_when_the_routes_are_there() {
    for hop in [Some(Some((99, 31))), Some(None), None] {
        let mut wanted = Wanted::rich();
        let mut fixture = Fixture::with(&wanted);
        let epoch = fixture.tables.image.fast_path.epoch;
        wanted.routes.remove(&1);
        wanted.routes.extend(hop.map(|hop| (1, hop)));
        fixture.fail(Failing::Those(|write| matches!(write, Write::FastPath(_))));
        fixture.apply(&wanted).unwrap_err();
        fixture.heal();
        fixture.writes();
        fixture.apply(&wanted).unwrap();
        let writes = fixture.writes();
        assert!(
            matches!(&writes[..], [Write::FastPath(fast_path)] if fast_path.epoch == epoch + 1),
            "{hop:?}: {writes:?}"
        );
    }
}

#[test]
fn clients_that_could_not_be_forgotten_are_asked_for_again() {
    let mut wanted = Wanted::rich();
    let mut fixture = Fixture::with(&wanted);
    assert!(!fixture.applied.affinity_is_stale);
    wanted.services.remove(&1);
    let key = AffinityKey {
        client: [192, 168, 0, 1],
        service: service(1),
    };
    fixture.tables.affinity.insert(key, Affinity::default());
    fixture.fail(Failing::Those(|write| {
        matches!(write, Write::RemoveAffinity(_))
    }));
    fixture.apply(&wanted).unwrap_err();
    fixture.heal();
    fixture.writes();
    fixture.apply(&wanted).unwrap();
    assert_eq!(fixture.writes(), [Write::RemoveAffinity(key)]);
}
