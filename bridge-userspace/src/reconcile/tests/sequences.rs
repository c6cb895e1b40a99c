//! Any states one after the other, with failures and restarts between.

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option::{self, weighted};
use proptest::prelude::*;

use super::fake_tables::{Failing, Fixture};
use super::wanted::Wanted;

proptest! {
    #[test]
    fn any_sequence_of_states_keeps_the_view_consistent_and_ends_with_the_last(
        rounds in vec(round(), 1..8),
        last in wanted(),
    ) {
        let mut fixture = Fixture::new();
        for round in rounds {
            if round.is_restart {
                fixture.restart();
            }
            fixture.fail(round.failing);
            // The fixture judges each write, and the outcome.
            let outcome = fixture.after(round.milliseconds).apply(&round.wanted);
            prop_assert!(outcome.is_ok() || !matches!(round.failing, Failing::Nothing));
        }
        fixture.heal();
        fixture.apply(&last).unwrap();
        fixture.restart();
        fixture.apply(&last).unwrap();
        // Nothing is left of what came before, but for entries that were in use with an unchanged epoch.
        fixture.after(1_000).apply(&last).unwrap();
        let image = &fixture.tables.image;
        let hops = image.next_hops_in_use();
        prop_assert!(image.next_hops.keys().eq(&hops));
        prop_assert!(image.vteps.keys().eq(&image.vteps_in_use(&hops)));
    }
}

#[derive(Clone, Debug)]
struct Round {
    wanted: Wanted,
    milliseconds: u64,
    failing: Failing,
    is_restart: bool,
}

fn round() -> impl Strategy<Value = Round> {
    let failing = prop_oneof![
        2 => Just(Failing::Nothing),
        1 => (0..40_usize).prop_map(Failing::Only),
        1 => (0..40_usize).prop_map(Failing::From),
    ];
    (wanted(), 0..1_500_u64, failing, weighted(0.2, Just(()))).prop_map(
        |(wanted, milliseconds, failing, restart)| Round {
            wanted,
            milliseconds,
            failing,
            is_restart: restart.is_some(),
        },
    )
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let backends = btree_set(0..5_u8, 0..4).prop_map(|backends| backends.into_iter().collect());
    let affinity = prop_oneof![Just(0), Just(60), Just(600)];
    (
        btree_map(0..5_u8, (backends, affinity), 0..5),
        btree_map(0..5_u8, 0..3_u32, 0..3),
        btree_map(0..5_u8, option::of((0..4_u8, 0..4_u8)), 0..5),
        btree_set(1..16_u16, 0..15),
        btree_set(90..102_u8, 0..12),
        btree_set(0..4_u8, 0..4),
        any::<bool>(),
    )
        .prop_map(
            |(services, addresses, routes, reserved, cluster, office, is_authoritative)| Wanted {
                services,
                addresses,
                routes,
                reserved,
                cluster,
                office,
                is_authoritative,
            },
        )
}
