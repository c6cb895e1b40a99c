//! Rare events that the datapath tells: typed ones through the `events` ring, the rest as log lines.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use bridge_common::abi::{Event, EventKind, name};
use tokio::io::unix::AsyncFd;
use tokio::sync::Mutex;
use tracing::{debug, warn};

use crate::datapath::Datapath;

/// At most one warning of a kind in this time.
const QUIET: Duration = Duration::from_secs(10);

/// The datapath's event ring.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
    last_warning: [Option<Instant>; 2],
}

impl Events {
    /// Opens the ring. Call it inside of the runtime.
    ///
    /// # Errors
    /// When the ring can't be opened or watched.
    pub fn open(datapath: &mut Datapath) -> anyhow::Result<Self> {
        let map = datapath
            .ebpf_mut()
            .take_map(name::EVENTS)
            .context("the eBPF object has no table `events`; the build is broken")?;
        let ring = watch(RingBuf::try_from(map)?).context("can't watch the event ring")?;
        Ok(Self {
            ring,
            last_warning: [None; 2],
        })
    }

    /// Waits until the datapath found a table full, warning about other events meanwhile.
    ///
    /// # Errors
    /// When the runtime can't watch the ring any more.
    pub async fn table_full(&mut self) -> io::Result<()> {
        loop {
            let mut guard = self.ring.readable_mut().await?;
            let mut is_full = false;
            let mut events = Vec::new();
            while let Some(record) = guard.get_inner_mut().next() {
                events.extend(parse(&record));
            }
            guard.clear_ready();
            drop(guard);
            for event in events {
                is_full |= event.kind == EventKind::TableFull as u32;
                self.warn(&event);
            }
            if is_full {
                return Ok(());
            }
        }
    }

    fn warn(&mut self, event: &Event) {
        let (slot, what) = match EventKind::from_number(event.kind) {
            Some(EventKind::TableFull) => (0, "the flow tables are full"),
            Some(EventKind::NoNatPort) => (1, "every NAT port tried is taken"),
            None => return,
        };
        let last = &mut self.last_warning[slot];
        if last.is_some_and(|last| last.elapsed() < QUIET) {
            return;
        }
        *last = Some(Instant::now());
        warn!(
            client = %format_args!("{}:{}", Ipv4Addr::from(event.client), event.client_port),
            destination = %format_args!("{}:{}", Ipv4Addr::from(event.destination), event.destination_port),
            "{what}: new flows are refused"
        );
    }
}

/// Waits for a ring with the runtime.
fn watch<T: AsRawFd>(ring: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: a ring owns its descriptor, always gives the same one, and closes it when it is dropped.
    unsafe { AsyncFd::register(ring) }.map_err(|error| error.into_parts().1)
}

fn parse(record: &[u8]) -> Option<Event> {
    let bytes: &[u8; size_of::<Event>()] = record.get(..size_of::<Event>())?.try_into().ok()?;
    let number = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
    let address = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
    Some(Event {
        kind: u32::from_ne_bytes(address(0)),
        client: address(4),
        destination: address(8),
        client_port: number(12),
        destination_port: number(14),
        protocol: bytes[16],
        pad: 0,
        pad2: 0,
    })
}

/// The log lines of the datapath's own.
pub struct DatapathLog(Mutex<AsyncFd<EbpfLogger<&'static dyn log::Log>>>);

impl DatapathLog {
    /// Opens the log; `None` where the datapath has none. Call it inside of the runtime.
    #[must_use]
    pub fn open(datapath: &mut Datapath) -> Option<Self> {
        let logger = EbpfLogger::init(datapath.ebpf_mut())
            .inspect_err(|error| debug!("the datapath has no log: {error}"))
            .ok()?;
        watch(logger)
            .inspect_err(|error| warn!("can't watch the datapath's log: {error}"))
            .ok()
            .map(|logger| Self(Mutex::new(logger)))
    }

    /// Passes the lines on to our log.
    pub async fn forward(&self) -> anyhow::Error {
        let mut logger = self.0.lock().await;
        loop {
            match logger.readable_mut().await {
                Ok(mut guard) => {
                    guard.get_inner_mut().flush();
                    guard.clear_ready();
                }
                Err(error) => return error.into(),
            }
        }
    }
}
