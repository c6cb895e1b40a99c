//! A frame at the XDP hook as the engine's frame: direct access to its linear part, which holds every header.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{xdp_action, xdp_md};
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_xdp_adjust_head, bpf_xdp_get_buff_len};
use aya_ebpf::programs::XdpContext;
use bridge_common::packet::OutOfBounds;
use bridge_common::packet::frame::Frame;
use bridge_common::path::xdp::Step;

/// A frame in one buffer.
pub struct Xdp {
    context: *mut xdp_md,
}

impl Xdp {
    /// The frame of an XDP hook.
    #[inline(always)]
    pub fn new(context: &XdpContext) -> Self {
        Self {
            context: context.as_ptr().cast(),
        }
    }

    /// Whether the frame goes on in other buffers.
    #[inline(always)]
    pub fn has_frags(&self) -> bool {
        // SAFETY: takes no pointer but the context.
        (unsafe { bpf_xdp_get_buff_len(self.context) } as u32) > self.len()
    }

    /// The XDP action for what becomes of it.
    #[inline(always)]
    pub fn act(step: Step) -> u32 {
        match step {
            Step::Pass | Step::OpenFlow => xdp_action::XDP_PASS,
            Step::Reflect => xdp_action::XDP_TX,
            // SAFETY: takes no pointer.
            Step::Redirect { ifindex } => unsafe {
                (bpf_redirect(ifindex, 0) as i32).cast_unsigned()
            },
            Step::Drop => xdp_action::XDP_DROP,
        }
    }

    /// `N` bytes at `offset`, if they are there.
    #[inline(always)]
    fn bytes<const N: usize>(&self, offset: u32) -> Result<*mut [u8; N], OutOfBounds> {
        let context = self.context;
        // SAFETY: the kernel passes a valid context, and the verifier checks every access to it.
        let (data, end) = unsafe { ((*context).data as usize, (*context).data_end as usize) };
        let start = data + offset as usize;
        if start + N > end {
            return Err(OutOfBounds);
        }
        Ok(start as *mut [u8; N])
    }

    #[inline(always)]
    fn adjust_head(&mut self, by: i32) -> Result<(), OutOfBounds> {
        // SAFETY: takes no pointer but the context.
        match unsafe { bpf_xdp_adjust_head(self.context, by) } {
            0 => Ok(()),
            _ => Err(OutOfBounds),
        }
    }
}

impl Frame for Xdp {
    #[inline(always)]
    fn ingress(&self) -> u32 {
        // SAFETY: the kernel passes a valid context, and the verifier checks every access to it.
        unsafe { (*self.context).ingress_ifindex }
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        let context = self.context;
        // SAFETY: the kernel passes a valid context, and the verifier checks every access to it.
        let (data, end) = unsafe { ((*context).data as usize, (*context).data_end as usize) };
        let len = end.wrapping_sub(data);
        // SAFETY: a local variable. It is read like this to keep the compiler from moving terms of later sums to the
        // pointers, which the verifier refuses.
        unsafe { core::ptr::read_volatile(&raw const len) as u32 }
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Result<[u8; N], OutOfBounds> {
        let source = self.bytes::<N>(offset)?;
        let mut bytes = [0; N];
        let (pairs, last) = bytes.as_chunks_mut::<2>();
        for (at, pair) in pairs.iter_mut().enumerate() {
            // SAFETY: checked to lie within the frame, which nobody else has.
            *pair = unsafe { source.cast::<u16>().add(at).read() }.to_ne_bytes();
        }
        if let [last] = last {
            // SAFETY: as above.
            *last = unsafe { source.cast::<u8>().add(N - 1).read() };
        }
        Ok(bytes)
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: u32, bytes: &[u8; N]) -> Result<(), OutOfBounds> {
        let target = self.bytes::<N>(offset)?;
        let (pairs, last) = bytes.as_chunks::<2>();
        for (at, pair) in pairs.iter().enumerate() {
            let word = u16::from_ne_bytes(*pair);
            // SAFETY: checked to lie within the frame, which nobody else has.
            unsafe { target.cast::<u16>().add(at).write(word) };
        }
        if let [last] = last {
            // SAFETY: as above.
            unsafe { target.cast::<u8>().add(N - 1).write(*last) };
        }
        Ok(())
    }

    #[inline(always)]
    fn grow(&mut self, len: u32) -> Result<(), OutOfBounds> {
        self.adjust_head(-(len as i32))
    }

    #[inline(always)]
    fn shrink(&mut self, len: u32) -> Result<(), OutOfBounds> {
        self.adjust_head(len as i32)
    }
}
