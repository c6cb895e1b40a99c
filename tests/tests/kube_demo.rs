//! The demonstration of `cargo xtask run`, on an API server.

use lab::{LabOptions, demo};

#[test]
fn every_step_succeeds_on_the_api_server() {
    let mut lab = LabOptions::default_variant().with_api_server().open();
    let bridge = lab.start_bridge(&[]).unwrap();
    let steps = demo::play(&mut lab, &bridge);
    let table = demo::table(&steps);
    assert!(steps.iter().all(demo::Step::passed), "{table}");
}
