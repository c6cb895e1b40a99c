//! What each client has: the counts that limit it, set right where the datapath has only added to them.

use std::collections::HashMap;

use bridge_common::abi::{
    Client, ClientKey, ClientPort, Flow, FlowKey, HeldPorts, Layer, Settings, name,
};

use crate::maps::{BPF_EXIST, Hash, TableError, Tables, access, gone};

/// Flows in use, by client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    clients: HashMap<ClientKey, u32>,
    ports: HashMap<ClientPort, u32>,
}

impl Load {
    /// Adds a flow that is in use.
    pub(super) fn add(&mut self, key: &FlowKey, flow: &Flow) {
        *self
            .clients
            .entry(ClientKey {
                address: key.client,
            })
            .or_default() += 1;
        if Layer::is_untranslated(flow.layer) {
            return;
        }
        let port = ClientPort::of(key, flow.backend, flow.backend_port);
        *self.ports.entry(port).or_default() += 1;
    }

    /// Whether some client is halfway to a limit: the datapath's counts grow until the next look.
    #[must_use]
    pub fn is_near_limit(&self, settings: &Settings) -> bool {
        let limits = settings.clients;
        let is_near = |count: u32, limit: u32| limit != 0 && count > limit / 2;
        let mut clients = self.clients.values();
        let mut ports = self.ports.values();
        clients.any(|&count| is_near(count, limits.flows))
            || ports.any(|&count| is_near(count, limits.nat_ports))
    }

    /// Sets the datapath's counts to these.
    ///
    /// # Errors
    /// When a table can't be read or written.
    pub fn write(&self, tables: &Tables) -> Result<(), TableError> {
        let mut clients: Hash<ClientKey, Client> = tables.hash(name::CLIENTS)?;
        for (key, client) in tables.read_all::<ClientKey, Client>(name::CLIENTS)? {
            let flows = self.clients.get(&key).copied().unwrap_or_default();
            if client.flows != flows {
                let counted = Client { flows, ..client };
                gone(clients.insert(key, counted, BPF_EXIST)).map_err(access(name::CLIENTS))?;
            }
        }
        let mut ports: Hash<ClientPort, HeldPorts> = tables.hash(name::CLIENT_PORTS)?;
        for (port, held) in tables.read_all::<ClientPort, HeldPorts>(name::CLIENT_PORTS)? {
            match self.ports.get(&port) {
                Some(&count) if count == held.count => {}
                Some(&count) => {
                    gone(ports.insert(port, HeldPorts { count }, BPF_EXIST))
                        .map_err(access(name::CLIENT_PORTS))?;
                }
                None => gone(ports.remove(&port)).map_err(access(name::CLIENT_PORTS))?,
            }
        }
        Ok(())
    }
}
