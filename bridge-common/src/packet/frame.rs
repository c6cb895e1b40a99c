//! How the XDP path reads and writes an Ethernet frame.

use network_types::eth::EthHdr;

use crate::abi::Ipv4;
use crate::packet::checksum::Difference;
use crate::packet::{ChecksumKind, OutOfBounds, Packet};

/// Bytes of an Ethernet header.
pub const ETHERNET: u32 = EthHdr::LEN as u32;

/// A frame from its Ethernet header on, before the kernel has made a socket buffer of it: nobody left a checksum or the
/// segmentation of it to a network card.
pub trait Frame {
    /// The interface that it came in by.
    fn ingress(&self) -> u32;

    /// Bytes from the Ethernet header to the end.
    fn len(&self) -> u32;

    /// Whether there is nothing at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `N` bytes at `offset`.
    ///
    /// # Errors
    /// When the frame ends before.
    fn load<const N: usize>(&self, offset: u32) -> Result<[u8; N], OutOfBounds>;

    /// Writes `bytes` at `offset`.
    ///
    /// # Errors
    /// When the frame ends before.
    fn store<const N: usize>(&mut self, offset: u32, bytes: &[u8; N]) -> Result<(), OutOfBounds>;

    /// Makes room for `len` bytes in front.
    ///
    /// # Errors
    /// When the driver has left no room there; the frame is as it was then.
    fn grow(&mut self, len: u32) -> Result<(), OutOfBounds>;

    /// Cuts `len` bytes off in front.
    ///
    /// # Errors
    /// When the frame is no longer than that.
    fn shrink(&mut self, len: u32) -> Result<(), OutOfBounds>;
}

/// The IPv4 packet in a frame, `AT` bytes from its start.
pub struct Inside<'a, F, const AT: u32>(pub &'a mut F);

impl<F: Frame, const AT: u32> Packet for Inside<'_, F, AT> {
    #[inline(always)]
    fn len(&self) -> u32 {
        self.0.len().saturating_sub(AT)
    }

    #[inline(always)]
    fn segment_size(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn segments(&self) -> u32 {
        1
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Result<[u8; N], OutOfBounds> {
        self.0.load(AT + offset)
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: u32, bytes: &[u8; N]) -> Result<(), OutOfBounds> {
        self.0.store(AT + offset, bytes)
    }

    /// The next hop says it.
    #[inline(always)]
    fn set_neighbour(&mut self, _address: Ipv4) {}

    #[inline(always)]
    fn update_checksum(
        &mut self,
        offset: u32,
        addresses: Difference,
        payload: Difference,
        kind: ChecksumKind,
    ) -> Result<(), OutOfBounds> {
        let change = addresses.and(payload);
        let checksum = self.load::<2>(offset)?;
        let updated = match kind {
            ChecksumKind::Plain => change.apply(checksum),
            ChecksumKind::Udp => change.apply_udp(checksum),
        };
        self.store(offset, &updated)
    }
}
