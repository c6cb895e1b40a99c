//! Pins that go with the test.

use bridge_userspace::maps::Pins;

pub struct Pinned(Pins);

impl Pinned {
    /// A place for the pins of this test of this process.
    pub fn new(test: &str) -> Self {
        let path = format!("/sys/fs/bpf/ob{}-{test}", std::process::id());
        Self(Pins::new(path.as_ref()))
    }

    pub fn pins(&self) -> &Pins {
        &self.0
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = self.0.remove_all();
    }
}
