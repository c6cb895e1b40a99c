//! Whether another bridge works on the same tables.

use std::path::Path;

use crate::maps::LockError;
use crate::model::Findings;

/// Checks that no other process has the lock of the pin path. `holder` is the one that has it
/// ([`InstanceLock::holder`](crate::maps::InstanceLock::holder)).
pub fn check_instance(pin_path: &Path, holder: Option<u32>, findings: &mut Findings) {
    if holder.is_some() {
        findings.push(LockError::Taken {
            pin_path: pin_path.to_owned(),
            pid: holder,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Subject;

    #[test]
    fn another_bridge_is_told_with_its_process() {
        let mut findings = Findings::default();
        check_instance(Path::new("/sys/fs/bpf/x"), None, &mut findings);
        assert!(findings.is_empty());
        check_instance(Path::new("/sys/fs/bpf/x"), Some(123), &mut findings);
        assert_eq!(
            findings.to_string(),
            "another office-bridge (process 123) already works on /sys/fs/bpf/x: stop it first, or give this one \
             another --pin-path"
        );
        let finding = findings.iter().next().unwrap();
        assert_eq!(finding.subject, Subject::Instance);
        assert!(!finding.is_usage());
    }
}
