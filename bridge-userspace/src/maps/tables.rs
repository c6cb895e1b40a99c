//! Typed access to the pinned tables, for whoever fills, cleans or shows them.

use std::collections::BTreeMap;
use std::io;

use aya::Pod;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use bridge_common::abi::{
    Backend, BackendKey, Counter, FastPath, Flow, FlowKey, Ipv4, Reply, ReplyKey, Service,
    ServiceKey, Settings, name,
};
use bridge_common::counters::Count;
use bridge_common::packet::parse::ICMP;
use ipnet::Ipv4Net;

use super::Pins;
use super::batch;

/// A table could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// There is no such table.
    #[error(
        "no tables are pinned below {pin_path}: no office-bridge has run with this `--pin-path` here, \
         or it was uninstalled"
    )]
    NotInstalled {
        /// What `--pin-path` says.
        pin_path: String,
    },
    /// The kernel refuses.
    #[error("table {table}: {source}")]
    Access {
        /// The table.
        table: &'static str,
        /// What the kernel said.
        source: MapError,
    },
    /// There is more to put in than fits.
    #[error("table {table} holds {capacity} entries, {wanted} are wanted")]
    TooMany {
        /// The table.
        table: &'static str,
        /// How many entries are wanted.
        wanted: usize,
        /// How many fit.
        capacity: usize,
    },
    /// There is no room for one more.
    #[error("table {table} is full: it holds {capacity} entries")]
    Full {
        /// The table.
        table: &'static str,
        /// How many entries fit.
        capacity: usize,
    },
    /// The kernel refuses to read many entries at once.
    #[error("table {table} can't be read: {source}")]
    Batch {
        /// The table.
        table: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The pinned tables of one bridge.
#[derive(Clone, Debug)]
pub struct Tables {
    pins: Pins,
}

/// A hash table.
pub type Hash<K, V> = HashMap<MapData, K, V>;
/// Backend lists by service id, backends by slot.
pub type BackendLists = BTreeMap<u32, BTreeMap<u32, Backend>>;
/// A table of prefixes.
pub type Prefixes<V> = LpmTrie<MapData, Ipv4, V>;

impl Tables {
    /// The tables below `pins`.
    ///
    /// # Errors
    /// When there are none.
    pub fn open(pins: &Pins) -> Result<Self, TableError> {
        if !pins.exist() {
            return Err(TableError::NotInstalled {
                pin_path: pins.root().display().to_string(),
            });
        }
        Ok(Self { pins: pins.clone() })
    }

    fn data(&self, table: &'static str) -> Result<MapData, TableError> {
        MapData::from_pin(self.pins.table(table))
            .map_err(|source| TableError::Access { table, source })
    }

    fn typed<T: TryFrom<Map, Error = MapError>>(
        &self,
        table: &'static str,
    ) -> Result<T, TableError> {
        Map::from_map_data(self.data(table)?)
            .and_then(T::try_from)
            .map_err(|source| TableError::Access { table, source })
    }

    /// A hash table.
    ///
    /// # Errors
    /// When it can't be opened.
    pub fn hash<K: Pod, V: Pod>(&self, table: &'static str) -> Result<Hash<K, V>, TableError> {
        self.typed(table)
    }

    /// A table of prefixes.
    ///
    /// # Errors
    /// When it can't be opened.
    pub fn prefixes<V: Pod>(&self, table: &'static str) -> Result<Prefixes<V>, TableError> {
        self.typed(table)
    }

    /// An array.
    ///
    /// # Errors
    /// When it can't be opened.
    pub fn array<V: Pod>(&self, table: &'static str) -> Result<Array<MapData, V>, TableError> {
        self.typed(table)
    }

    /// All forward entries.
    ///
    /// # Errors
    /// When the table can't be read.
    pub fn flows(&self) -> Result<Vec<(FlowKey, Flow)>, TableError> {
        self.read_all(name::FLOWS)
    }

    /// All reply entries.
    ///
    /// # Errors
    /// When the table can't be read.
    pub fn replies(&self) -> Result<Vec<(ReplyKey, Reply)>, TableError> {
        self.read_all(name::REPLIES)
    }

    /// The backend lists by service id, and in each the backends by slot.
    ///
    /// # Errors
    /// When the table can't be read.
    pub fn backend_lists(&self) -> Result<BackendLists, TableError> {
        let mut lists = BackendLists::new();
        for (key, backend) in self.read_all::<BackendKey, Backend>(name::BACKENDS)? {
            lists
                .entry(key.service_id)
                .or_default()
                .insert(key.slot, backend);
        }
        Ok(lists)
    }

    /// The settings of the datapath.
    ///
    /// # Errors
    /// When the table can't be read.
    pub fn settings(&self) -> Result<Settings, TableError> {
        self.single(name::SETTINGS)
    }

    /// What XDP works by, its lease among it.
    ///
    /// # Errors
    /// When the table can't be read.
    pub fn fast_path(&self) -> Result<FastPath, TableError> {
        self.single(name::FAST_PATH)
    }

    fn single<V: Pod>(&self, table: &'static str) -> Result<V, TableError> {
        self.array(table)?.get(&0, 0).map_err(access(table))
    }

    /// The service ports. The entries of whole addresses, which pings are answered by, are left out.
    ///
    /// # Errors
    /// When the table can't be read.
    pub fn service_ports(&self) -> Result<Vec<(ServiceKey, Service)>, TableError> {
        let mut services = self.read_all::<ServiceKey, Service>(name::SERVICES)?;
        services.retain(|(key, _)| key.protocol != ICMP);
        Ok(services)
    }

    /// Every entry of a hash table or an array, read in batches. Entries that come and go meanwhile may be missed.
    ///
    /// # Errors
    /// When the table can't be read.
    pub fn read_all<K: Pod + Default, V: Pod + Default>(
        &self,
        table: &'static str,
    ) -> Result<Vec<(K, V)>, TableError> {
        let data = self.data(table)?;
        batch::read_all(&data).map_err(|source| TableError::Batch { table, source })
    }

    /// How many flows fit.
    ///
    /// # Errors
    /// When the table can't be opened.
    pub fn flow_capacity(&self) -> Result<u32, TableError> {
        let info = self.data(name::FLOWS)?.info();
        info.map(|info| info.max_entries())
            .map_err(|source| TableError::Access {
                table: name::FLOWS,
                source,
            })
    }

    /// A counter, summed up over all CPUs.
    ///
    /// # Errors
    /// When the table can't be read.
    pub fn counters(&self) -> Result<impl Fn(Count) -> Counter, TableError> {
        let table: PerCpuArray<MapData, Counter> = self.typed(name::COUNTERS)?;
        Ok(move |count: Count| {
            let Ok(per_cpu) = table.get(&count.index(), 0) else {
                return Counter::default();
            };
            per_cpu.iter().fold(Counter::default(), |sum, one| Counter {
                packets: sum.packets + one.packets,
                bytes: sum.bytes + one.bytes,
            })
        })
    }
}

/// A prefix as an LPM trie's key.
#[must_use]
pub fn prefix_key(prefix: Ipv4Net) -> Key<Ipv4> {
    Key::new(u32::from(prefix.prefix_len()), prefix.network().octets())
}

/// The prefix that an LPM trie's key stands for.
#[must_use]
pub fn prefix_of(key: &Key<Ipv4>) -> Ipv4Net {
    let len = u8::try_from(key.prefix_len()).unwrap_or(32).min(32);
    Ipv4Net::new(key.data().into(), len).unwrap_or_default()
}

/// Makes a kernel error readable where the cause is plain.
pub(crate) fn access(table: &'static str) -> impl Fn(MapError) -> TableError {
    move |source| TableError::Access { table, source }
}

/// Tells a table that is full from other troubles.
pub(crate) fn full(table: &'static str, capacity: usize) -> impl Fn(MapError) -> TableError {
    /// `E2BIG` (asm-generic/errno-base.h), which a hash table without room says.
    const E2BIG: i32 = 7;
    move |source| match &source {
        MapError::SyscallError(error) if error.io_error.raw_os_error() == Some(E2BIG) => {
            TableError::Full { table, capacity }
        }
        _ => TableError::Access { table, source },
    }
}

/// An update of what is there, and nothing new (`BPF_EXIST`, linux/bpf.h).
pub(crate) const BPF_EXIST: u64 = 2;

/// The outcome of a removal, where an entry that is gone already is as good.
pub(crate) fn gone(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
            Ok(())
        }
        other => other,
    }
}
