#![no_std]
#![no_main]
//! eBPF.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! { loop {} }
