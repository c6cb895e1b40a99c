//! How the engine reads and writes a packet.

pub mod checksum;
pub mod frame;
pub mod integrity;
pub mod mss;
pub mod parse;
pub mod rewrite;
pub mod vxlan;

use crate::abi::{HELD_BYTES, Ipv4};
use crate::packet::checksum::{Difference, Sum};

/// The packet could not be read or written there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfBounds;

/// The most that [`Resizable::sum`] adds up, and that an ICMP error quotes of a packet, in bytes. RFC 1812
/// 4.3.2.3 asks for as much as fits 576; 128 is what RFC 4884 takes for granted and holds every header.
pub const QUOTE_MAX: u32 = 128;

/// Which checksum a [`Difference`] goes into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumKind {
    /// TCP or ICMP: plain.
    Plain,
    /// UDP: 0 means none.
    Udp,
}

/// One packet, from its IPv4 header on: offset 0 is the first byte of that header.
pub trait Packet {
    /// Bytes from the IPv4 header to the end, link-layer padding and all segments of a GSO packet included.
    fn len(&self) -> u32;

    /// Whether there is nothing after the link-layer header.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Payload bytes of each segment of a GSO packet; 0 if it is none.
    fn segment_size(&self) -> u32;

    /// Packets on the wire: the segments of a GSO packet, else 1.
    fn segments(&self) -> u32;

    /// `N` bytes at `offset`.
    ///
    /// # Errors
    /// When the packet ends before.
    fn load<const N: usize>(&self, offset: u32) -> Result<[u8; N], OutOfBounds>;

    /// Writes `bytes` at `offset`.
    ///
    /// # Errors
    /// When the packet ends before, or can't be made writable.
    fn store<const N: usize>(&mut self, offset: u32, bytes: &[u8; N]) -> Result<(), OutOfBounds>;

    /// Notes which neighbour the packet is to be given to.
    fn set_neighbour(&mut self, address: Ipv4);

    /// Brings the transport checksum at `offset` up to date.
    ///
    /// `addresses` is what changed in the pseudo-header, `payload` what changed in the bytes that
    /// the checksum covers. They are told apart because a checksum that the sender left to its
    /// network card (`CHECKSUM_PARTIAL`) holds the sum of the pseudo-header alone.
    ///
    /// # Errors
    /// When the packet ends before, or can't be made writable.
    fn update_checksum(
        &mut self,
        offset: u32,
        addresses: Difference,
        payload: Difference,
        kind: ChecksumKind,
    ) -> Result<(), OutOfBounds>;
}

/// A packet that can be cut and lengthened, as turning it into a reply to its sender takes.
pub trait Resizable: Packet {
    /// Whether the transport checksum at `offset` is still to be completed by a network card.
    fn checksum_is_partial(&mut self, offset: u32) -> bool;

    /// The sum over `len` bytes at `offset`, at least 1 and at most [`QUOTE_MAX`].
    ///
    /// # Errors
    /// When the packet ends before.
    fn sum(&self, offset: u32, len: u32) -> Result<Sum, OutOfBounds>;

    /// Cuts the packet to `len` bytes.
    ///
    /// # Errors
    /// When it can't be resized.
    fn truncate(&mut self, len: u32) -> Result<(), OutOfBounds>;

    /// Makes room for `N` bytes in front of the IPv4 header; the first of them is then at offset 0.
    ///
    /// # Errors
    /// When it can't be resized.
    fn prepend<const N: usize>(&mut self) -> Result<(), OutOfBounds>;
}

/// A packet that can be kept for later, link-layer header and all, and come in a second time.
pub trait Holdable: Packet {
    /// Copies the frame, and gives its length in bytes, at least 1.
    ///
    /// # Errors
    /// When it is larger than that.
    fn copy_frame(&self, to: &mut [u8; HELD_BYTES]) -> Result<u32, OutOfBounds>;

    /// Becomes another frame, of which `bytes` has `len`.
    ///
    /// # Errors
    /// When it can't be resized, or made writable.
    fn become_frame(&mut self, bytes: &[u8; HELD_BYTES], len: u32) -> Result<(), OutOfBounds>;

    /// Lets a copy of it come in again by the interface that it came in by, behind what is on its way there.
    ///
    /// # Errors
    /// When there is no memory, or no room in the queue.
    fn requeue(&mut self) -> Result<(), OutOfBounds>;
}
