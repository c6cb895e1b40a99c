//! Removing flows from the tables.
//!
//! The datapath opens a flow with its reply entry first, so that a forward entry always has one. Removing goes the other
//! way round, forward entries first. In between a reply entry stands alone: it still translates what the backend
//! sends, and the next gc removes it. A forward entry alone would be repaired by the datapath, which puts a lost reply
//! entry back, so the flow would outlast its removal.

use bridge_common::abi::{Flow, FlowKey, Reply, ReplyKey, name};

use crate::maps::{Hash, TableError, Tables, access, gone};

/// Removes entries. One that is gone already is as good as removed.
///
/// # Errors
/// When a table can't be written. The entries that come after the failed one stay.
pub fn remove(tables: &Tables, flows: &[FlowKey], replies: &[ReplyKey]) -> Result<(), TableError> {
    let mut tables = KernelFlows {
        flows: tables.hash(name::FLOWS)?,
        replies: tables.hash(name::REPLIES)?,
    };
    remove_in_order(&mut tables, flows, replies)
}

/// `flows` and `replies`.
trait FlowTables {
    fn remove_flow(&mut self, key: &FlowKey) -> Result<(), TableError>;
    fn remove_reply(&mut self, key: &ReplyKey) -> Result<(), TableError>;
}

fn remove_in_order(
    tables: &mut impl FlowTables,
    flows: &[FlowKey],
    replies: &[ReplyKey],
) -> Result<(), TableError> {
    flows.iter().try_for_each(|key| tables.remove_flow(key))?;
    replies.iter().try_for_each(|key| tables.remove_reply(key))
}

/// The pinned tables.
struct KernelFlows {
    flows: Hash<FlowKey, Flow>,
    replies: Hash<ReplyKey, Reply>,
}

impl FlowTables for KernelFlows {
    fn remove_flow(&mut self, key: &FlowKey) -> Result<(), TableError> {
        gone(self.flows.remove(key)).map_err(access(name::FLOWS))
    }

    fn remove_reply(&mut self, key: &ReplyKey) -> Result<(), TableError> {
        gone(self.replies.remove(key)).map_err(access(name::REPLIES))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bridge_common::packet::parse::TCP;

    use super::*;

    #[test]
    fn wherever_a_removal_fails_no_forward_entry_is_left_without_its_reply_entry() {
        for failing in 0..=4 {
            let mut tables = Fake::new(failing);
            let flows: Vec<FlowKey> = tables.flows.keys().copied().take(2).collect();
            let replies: Vec<ReplyKey> = flows.iter().map(|key| tables.reply_key(key)).collect();
            let removed = remove_in_order(&mut tables, &flows, &replies);
            assert_eq!(removed.is_ok(), failing == 4);
            assert_eq!(tables.flows.len() + tables.replies.len(), 6 - failing);
            // Once more, as the next gc does with what is left.
            tables.failing = usize::MAX;
            remove_in_order(&mut tables, &flows, &replies).unwrap();
            assert_eq!((tables.flows.len(), tables.replies.len()), (1, 1));
        }
    }

    /// Three flows, and the removal that fails, counted from 0.
    struct Fake {
        flows: BTreeMap<FlowKey, Flow>,
        replies: BTreeMap<ReplyKey, Reply>,
        attempts: usize,
        failing: usize,
    }

    impl Fake {
        fn new(failing: usize) -> Self {
            let flows: BTreeMap<FlowKey, Flow> = (1..=3)
                .map(|client_port| {
                    let key = FlowKey {
                        client_port,
                        protocol: TCP,
                        ..FlowKey::default()
                    };
                    let flow = Flow {
                        nat_port: client_port,
                        ..Flow::default()
                    };
                    (key, flow)
                })
                .collect();
            Self {
                replies: flows
                    .iter()
                    .map(|(key, flow)| (key.reply_key(flow), Reply::default()))
                    .collect(),
                flows,
                attempts: 0,
                failing,
            }
        }

        fn reply_key(&self, key: &FlowKey) -> ReplyKey {
            key.reply_key(&self.flows[key])
        }

        fn attempt(&mut self) -> Result<(), TableError> {
            let fails = self.attempts == self.failing;
            self.attempts += 1;
            if fails {
                return Err(TableError::Full {
                    table: name::FLOWS,
                    capacity: 0,
                });
            }
            Ok(())
        }

        fn assert_whole(&self) {
            for key in self.flows.keys() {
                assert!(self.replies.contains_key(&self.reply_key(key)), "{key:?}");
            }
        }
    }

    impl FlowTables for Fake {
        fn remove_flow(&mut self, key: &FlowKey) -> Result<(), TableError> {
            self.attempt()?;
            self.flows.remove(key);
            self.assert_whole();
            Ok(())
        }

        fn remove_reply(&mut self, key: &ReplyKey) -> Result<(), TableError> {
            self.attempt()?;
            self.replies.remove(key);
            self.assert_whole();
            Ok(())
        }
    }
}
