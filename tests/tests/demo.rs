//! The demonstration of `cargo xtask run`, on manifests.

use lab::{LabOptions, demo};

#[test]
fn every_step_succeeds_on_manifests_and_each_flow_has_its_layer() {
    let mut lab = LabOptions::default_variant().open();
    let bridge = lab.start_bridge(&[]).unwrap();
    let steps = demo::play(&mut lab, &bridge);
    let table = demo::table(&steps);
    assert!(steps.iter().all(demo::Step::passed), "{table}");
    let flows = bridge.flows().unwrap();
    for layer in ["stack", "kernel"] {
        let is_shown = flows.iter().any(|flow| flow["layer"] == layer);
        assert!(is_shown, "{layer}: {}", demo::flow_table(&flows));
    }
}
