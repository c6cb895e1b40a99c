//! What `cargo xtask run` shows where an API server is found.

use lab::{Lab, LabOptions, Variant, demo};

#[test]
fn every_step_succeeds_on_the_api_server() {
    let mut lab = Lab::open(LabOptions {
        api_server: true,
        ..LabOptions::of(Variant::DEFAULT)
    })
    .unwrap();
    let bridge = lab.start_bridge(&[]).unwrap();
    let steps = demo::play(&mut lab, &bridge);
    let table = demo::table(&steps);
    assert!(steps.iter().all(demo::Step::passed), "{table}");
}
