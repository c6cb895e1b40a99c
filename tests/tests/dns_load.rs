//! The rate of the DNS relay. In a file of its own, as `cargo test` runs files one after the other: no other test runs
//! during the measurement.

use lab::LabOptions;
use lab::plan::{MYSQL_NAME, NODE_30};

#[test]
fn ten_thousand_questions_a_second_are_all_answered() {
    let lab = LabOptions::default().open();
    let _bridge = lab.start_bridge(&[]).unwrap();
    let count = 20_000;
    // The machine may be busy with other things; no question may be lost even then.
    let rates = [(); 3].map(|()| {
        let (answered, elapsed) = lab
            .office_pc()
            .dns_load(NODE_30, MYSQL_NAME, count, 100)
            .unwrap();
        assert_eq!(answered, count, "after {elapsed:?}");
        f64::from(count) / elapsed.as_secs_f64()
    });
    assert!(
        rates.iter().any(|&rate| rate >= 10_000.0),
        "questions a second: {rates:.0?}"
    );
}
