//! A socket buffer as the engine's packet.
//!
//! Everything goes through the kernel's helpers: they take packets that are not linear, keep
//! `CHECKSUM_PARTIAL` and `CHECKSUM_COMPLETE` right, and unshare cloned buffers before a write.

use core::ffi::c_void;
use core::mem::MaybeUninit;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    __sk_buff, BPF_F_INGRESS, BPF_F_INVALIDATE_HASH, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR,
    BPF_F_RECOMPUTE_CSUM, TC_ACT_SHOT, bpf_adj_room_mode, bpf_redir_neigh,
    bpf_redir_neigh__bindgen_ty_1,
};
use aya_ebpf::helpers::generated::{
    bpf_clone_redirect, bpf_csum_diff, bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh,
    bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes,
    bpf_skb_vlan_pop,
};
use aya_ebpf::programs::TcContext;
use bridge_common::abi::{HELD_BYTES, Ipv4, LinkAddress};
use bridge_common::packet::checksum::{Difference, Sum};
use bridge_common::packet::{ChecksumKind, Holdable, OutOfBounds, Packet, QUOTE_MAX, Resizable};

use crate::maps::scratch;

/// `ETH_P_IP` (`linux/if_ether.h`) as `__sk_buff.protocol` has it.
const ETH_P_IP: u32 = 0x0800_u16.to_be() as u32;
/// `AF_INET` (linux/socket.h).
const AF_INET: u32 = 2;
/// `PACKET_HOST` (`linux/if_packet.h`).
const PACKET_HOST: u32 = 0;
/// `ETH_HLEN` (`linux/if_ether.h`): the bridge attaches to Ethernet interfaces only.
const ETH_HLEN: u32 = 14;
const MAC_LEN: usize = 6;
/// `VLAN_VID_MASK` (`linux/if_vlan.h`).
const VLAN_VID_MASK: u32 = 0x0FFF;
/// `tc_index` of a packet that the uplink has let pass for the stack path. The kernel gives a new packet 0, keeps the
/// field on the packet's way through the IP stack and in its fragments (`ip_copy_metadata`, `net/ipv4/ip_output.c`), and
/// leaves it to classifiers; unlike the mark, netfilter has no say in it.
const FROM_UPLINK: u32 = 0x0B1D;

/// An IPv4 packet in a socket buffer.
pub struct Skb {
    skb: *mut __sk_buff,
    neighbour: Ipv4,
}

/// Reads a field of `__sk_buff`.
macro_rules! field {
    ($skb:expr, $field:ident) => {{
        // SAFETY: the kernel passes a valid context, and the verifier checks every access to it.
        unsafe { (*$skb.skb).$field }
    }};
}

const fn done(result: i64) -> Result<(), OutOfBounds> {
    if result == 0 {
        Ok(())
    } else {
        Err(OutOfBounds)
    }
}

impl Skb {
    #[inline(always)]
    fn of(context: &TcContext) -> Self {
        Self {
            skb: context.as_ptr().cast(),
            neighbour: [0; 4],
        }
    }

    /// The packet of a TC hook, if it is IPv4 of no VLAN.
    #[inline(always)]
    pub fn ipv4(context: &TcContext) -> Option<Self> {
        let skb = Self::of(context);
        let is_of_vlan =
            field!(skb, vlan_present) != 0 && field!(skb, vlan_tci) & VLAN_VID_MASK != 0;
        (field!(skb, protocol) == ETH_P_IP && !is_of_vlan).then_some(skb)
    }

    /// Takes off the tag of a packet that has a priority and is of no VLAN: it goes on, or back, by the same rules as any
    /// other.
    #[inline(always)]
    pub fn remove_priority_tag(&mut self) -> Result<(), OutOfBounds> {
        if field!(self, vlan_present) == 0 {
            return Ok(());
        }
        // SAFETY: takes no pointer but the context.
        done(unsafe { bpf_skb_vlan_pop(self.skb) })
    }

    /// Whether this node itself has made the packet.
    #[inline(always)]
    pub fn is_of_this_node(&self) -> bool {
        field!(self, ingress_ifindex) == 0
    }

    /// What the frame is addressed to, where it came in.
    #[inline(always)]
    pub fn link_address(&self) -> Option<LinkAddress> {
        let mac = self.load_raw::<MAC_LEN>(0).ok()?;
        Some(LinkAddress {
            ifindex: field!(self, ifindex),
            mac,
            pad: 0,
        })
    }

    /// Whether the frame was addressed to the interface that it came in by.
    #[inline(always)]
    pub fn is_for_host(&self) -> bool {
        field!(self, pkt_type) == PACKET_HOST
    }

    /// Notes on the packet that the stack path is to take it.
    #[inline(always)]
    pub fn note_from_uplink(&mut self) {
        // SAFETY: the kernel passes a valid context, and the verifier checks every access to it.
        unsafe { (*self.skb).tc_index = FROM_UPLINK }
    }

    /// Whether that was noted on it; from then on it is not any more.
    #[inline(always)]
    pub fn take_from_uplink(&mut self) -> bool {
        let is_noted = field!(self, tc_index) == FROM_UPLINK;
        if is_noted {
            // SAFETY: the kernel passes a valid context, and the verifier checks every access to it.
            unsafe { (*self.skb).tc_index = 0 }
        }
        is_noted
    }

    /// Notes for the program that goes on with the packet what was decided, and whether it came in by the uplink. `cb` is
    /// this hook's as long as its programs run.
    #[inline(always)]
    pub fn hand_over(&mut self, decided: u32, is_uplink: bool) {
        // SAFETY: the kernel passes a valid context, and the verifier checks every access to it.
        unsafe {
            (*self.skb).cb[0] = decided;
            (*self.skb).cb[1] = u32::from(is_uplink);
        }
    }

    /// What was noted.
    #[inline(always)]
    pub fn handed_over(&self) -> (u32, bool) {
        // SAFETY: the kernel passes a valid context, and the verifier checks every access to it.
        unsafe { ((*self.skb).cb[0], (*self.skb).cb[1] != 0) }
    }

    /// The interface that the packet came in by.
    #[inline(always)]
    pub fn ifindex(context: &TcContext) -> u32 {
        field!(Self::of(context), ifindex)
    }

    /// Sends the packet out of `ifindex` to the neighbour that was noted on it; the kernel finds its link-layer
    /// address, or asks for it.
    #[inline(always)]
    pub fn redirect_to_neighbour(&self, ifindex: u32) -> i32 {
        let mut neighbour = bpf_redir_neigh {
            nh_family: AF_INET,
            __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: [0; 4] },
        };
        neighbour.__bindgen_anon_1.ipv4_nh = u32::from_ne_bytes(self.neighbour);
        let len = size_of::<bpf_redir_neigh>() as i32;
        // SAFETY: the block is as long as said.
        unsafe { bpf_redirect_neigh(ifindex, &raw mut neighbour, len, 0) as i32 }
    }

    /// Sends the packet back to the link-layer address that it came from. One that was about to leave comes in
    /// by the interface that it would have left by.
    #[inline(always)]
    pub fn reflect(&mut self, was_leaving: bool) -> i32 {
        let Ok(addresses) = self.load_raw::<{ 2 * MAC_LEN }>(0) else {
            return TC_ACT_SHOT;
        };
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5] = addresses;
        if self
            .store_raw(0, &[s0, s1, s2, s3, s4, s5, d0, d1, d2, d3, d4, d5])
            .is_err()
        {
            return TC_ACT_SHOT;
        }
        let ifindex = field!(self, ifindex);
        let flags = if was_leaving {
            u64::from(BPF_F_INGRESS)
        } else {
            0
        };
        // SAFETY: takes no pointer.
        unsafe { bpf_redirect(ifindex, flags) as i32 }
    }

    #[inline(always)]
    fn load_raw<const N: usize>(&self, offset: u32) -> Result<[u8; N], OutOfBounds> {
        // Zeros to begin with would take a loop over the octets.
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: `bytes` is `N` bytes long; the kernel checks the packet's bounds.
        done(unsafe {
            bpf_skb_load_bytes(self.skb.cast(), offset, bytes.as_mut_ptr().cast(), N as u32)
        })?;
        // SAFETY: the helper has written all of it, as it did not fail.
        Ok(unsafe { bytes.assume_init() })
    }

    #[inline(always)]
    fn store_raw<const N: usize>(
        &mut self,
        offset: u32,
        bytes: &[u8; N],
    ) -> Result<(), OutOfBounds> {
        // SAFETY: `bytes` is `N` bytes long; the kernel checks the packet's bounds.
        done(unsafe { bpf_skb_store_bytes(self.skb, offset, bytes.as_ptr().cast(), N as u32, 0) })
    }

    #[inline(always)]
    fn add_to_checksum(
        &mut self,
        offset: u32,
        difference: Difference,
        flags: u64,
    ) -> Result<(), OutOfBounds> {
        // SAFETY: takes no pointer but the context; a `from` of 0 says that `to` is a difference.
        done(unsafe {
            bpf_l4_csum_replace(
                self.skb,
                ETH_HLEN + offset,
                0,
                u64::from(difference.wsum()),
                flags,
            )
        })
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn len(&self) -> u32 {
        field!(self, len) - ETH_HLEN
    }

    #[inline(always)]
    fn segment_size(&self) -> u32 {
        field!(self, gso_size)
    }

    #[inline(always)]
    fn segments(&self) -> u32 {
        match field!(self, gso_segs) {
            0 => 1,
            segments => segments,
        }
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Result<[u8; N], OutOfBounds> {
        self.load_raw(ETH_HLEN + offset)
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: u32, bytes: &[u8; N]) -> Result<(), OutOfBounds> {
        self.store_raw(ETH_HLEN + offset, bytes)
    }

    #[inline(always)]
    fn set_neighbour(&mut self, address: Ipv4) {
        self.neighbour = address;
    }

    #[inline(always)]
    fn update_checksum(
        &mut self,
        offset: u32,
        addresses: Difference,
        payload: Difference,
        kind: ChecksumKind,
    ) -> Result<(), OutOfBounds> {
        let flags = match kind {
            ChecksumKind::Plain => 0,
            ChecksumKind::Udp => u64::from(BPF_F_MARK_MANGLED_0),
        };
        if addresses != Difference::default() {
            self.add_to_checksum(offset, addresses, flags | u64::from(BPF_F_PSEUDO_HDR))?;
        }
        if payload != Difference::default() {
            self.add_to_checksum(offset, payload, flags)?;
        }
        Ok(())
    }
}

impl Resizable for Skb {
    /// `__sk_buff` does not say; but the kernel leaves such a checksum alone when payload changes.
    #[inline(always)]
    fn checksum_is_partial(&mut self, offset: u32) -> bool {
        let Ok(before) = self.load::<2>(offset) else {
            return false;
        };
        let change = Difference::default().replace([0, 0], [0, 1]);
        if self.add_to_checksum(offset, change, 0).is_err() {
            return false;
        }
        let unchanged = self.load::<2>(offset) == Ok(before);
        if !unchanged {
            // The field is put back as it was: the engine quotes or overwrites it.
            let _ = self.store(offset, &before);
        }
        unchanged
    }

    #[inline(always)]
    fn sum(&self, offset: u32, len: u32) -> Result<Sum, OutOfBounds> {
        let buffer = scratch().ok_or(OutOfBounds)?;
        // SAFETY: a local variable. It is read like this because the compiler knows bounds of `len` that the
        // verifier has lost, and would optimise away what tells it again.
        let len = unsafe { core::ptr::read_volatile(&raw const len) };
        // Changes nothing from 1 to QUOTE_MAX, and is in that range to any verifier.
        let len = (len.wrapping_sub(1) & (QUOTE_MAX - 1)) + 1;
        // SAFETY: `buffer` is this CPU's own, QUOTE_MAX bytes long, a multiple of 4, and `len` is at most
        // that; the kernel checks the packet's bounds. What is not read of the packet is zero.
        unsafe {
            (*buffer.as_ptr()).fill(0);
            let bytes = buffer.as_ptr().cast::<c_void>();
            done(bpf_skb_load_bytes(
                self.skb.cast(),
                ETH_HLEN + offset,
                bytes,
                len,
            ))?;
            let sum = bpf_csum_diff(core::ptr::null_mut(), 0, bytes.cast(), QUOTE_MAX, 0);
            u32::try_from(sum)
                .map(Sum::from_wsum)
                .map_err(|_| OutOfBounds)
        }
    }

    #[inline(always)]
    fn truncate(&mut self, len: u32) -> Result<(), OutOfBounds> {
        // SAFETY: takes no pointer but the context.
        done(unsafe { bpf_skb_change_tail(self.skb, ETH_HLEN + len, 0) })
    }

    #[inline(always)]
    fn prepend<const N: usize>(&mut self) -> Result<(), OutOfBounds> {
        // SAFETY: takes no pointer but the context.
        done(unsafe {
            bpf_skb_adjust_room(self.skb, N as i32, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, 0)
        })
    }
}

/// A length that any verifier knows to be from 1 to [`HELD_BYTES`].
#[inline(always)]
fn held_len(len: u32) -> Result<u32, OutOfBounds> {
    let index_of_last = len.wrapping_sub(1);
    // SAFETY: a local variable. It is read like this to keep the compiler from using what it was made of: of that a
    // verifier before 6.8 does not know that it isn't 0.
    let index_of_last = unsafe { core::ptr::read_volatile(&raw const index_of_last) };
    if index_of_last >= HELD_BYTES as u32 {
        return Err(OutOfBounds);
    }
    Ok(index_of_last + 1)
}

impl Holdable for Skb {
    #[inline(always)]
    fn copy_frame(&self, to: &mut [u8; HELD_BYTES]) -> Result<u32, OutOfBounds> {
        let len = held_len(field!(self, len))?;
        // SAFETY: `to` has at least `len` bytes; the kernel checks the packet's bounds.
        done(unsafe { bpf_skb_load_bytes(self.skb.cast(), 0, to.as_mut_ptr().cast(), len) })?;
        Ok(len)
    }

    #[inline(always)]
    fn become_frame(&mut self, bytes: &[u8; HELD_BYTES], len: u32) -> Result<(), OutOfBounds> {
        let len = held_len(len)?;
        let flags = u64::from(BPF_F_RECOMPUTE_CSUM) | u64::from(BPF_F_INVALIDATE_HASH);
        // SAFETY: takes no pointer but the context.
        done(unsafe { bpf_skb_change_tail(self.skb, len, 0) })?;
        // SAFETY: `bytes` has at least `len` bytes; the kernel checks the packet's bounds.
        done(unsafe { bpf_skb_store_bytes(self.skb, 0, bytes.as_ptr().cast(), len, flags) })
    }

    #[inline(always)]
    fn requeue(&mut self) -> Result<(), OutOfBounds> {
        let ifindex = field!(self, ifindex);
        // SAFETY: takes no pointer but the context.
        done(unsafe { bpf_clone_redirect(self.skb, ifindex, u64::from(BPF_F_INGRESS)) })
    }
}
