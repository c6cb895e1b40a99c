//! Attaching by links, which are pinned: they outlive the process, and a successor takes them over.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;

use tracing::debug;

use crate::maps::Pins;
use crate::maps::bpf_syscall::{attach_link, detach_pinned_link, pinned_link, replace_program};
use crate::model::program::AttachPoint;

/// Puts the program into the link of an earlier `run`, in one step, or makes a link.
pub(super) fn link(pins: &Pins, point: &AttachPoint, program: BorrowedFd<'_>) -> io::Result<()> {
    let pin = pins.link(point.program, point.ifindex);
    if pin.exists() {
        match replace_program(&pin, program) {
            Ok(()) => {
                debug!(interface = point.interface, "took over the link");
                return Ok(());
            }
            // Somebody has detached it, or its interface was deleted and the index is in use again.
            Err(error) => debug!(
                interface = point.interface,
                "old link is of no use: {error}"
            ),
        }
        if detach_pinned_link(&pin).is_err() {
            fs::remove_file(&pin)?;
        }
    }
    attach_link(program, point.program.hook(), point.ifindex, &pin)
}

/// Puts the program before all others at its TCX hook, where it is attached by its pinned link: a hook's order can't be
/// changed, so it needs a new link. A hook takes a program once only, so `stand_in` works in the old link until the new one is
/// there: no packet meets the hook without one of the two.
pub(super) fn move_first(
    pins: &Pins,
    point: &AttachPoint,
    program: BorrowedFd<'_>,
    stand_in: BorrowedFd<'_>,
) -> io::Result<()> {
    let pin = pins.link(point.program, point.ifindex);
    let next = pins.next_link(point.program, point.ifindex);
    // A process that died here has left it.
    let _ = detach_pinned_link(&next);
    replace_program(&pin, stand_in)?;
    if let Err(error) = attach_link(program, point.program.hook(), point.ifindex, &next) {
        let _ = detach_pinned_link(&next);
        replace_program(&pin, program)?;
        return Err(error);
    }
    detach_pinned_link(&pin)?;
    fs::rename(next, pin)
}

/// Whether the pinned link leads to the interface. One that was detached, or whose interface was deleted, is still
/// pinned, but leads nowhere.
pub(super) fn is_linked(pins: &Pins, point: &AttachPoint) -> bool {
    pinned_link(&pins.link(point.program, point.ifindex))
        .is_ok_and(|link| link.ifindex == point.ifindex)
}
