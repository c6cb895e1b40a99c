//! Runs the virtual machine.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::process::command;

/// Longest run of the machine. It is emulated, which is slow.
const LIMIT: Duration = Duration::from_mins(15);
/// Network cards. Each pair of them is on a hub of its own.
const CARDS: [&str; 6] = [VIRTIO, VIRTIO, VIRTIO, VIRTIO, VMXNET3, VIRTIO];
/// A network card that strips VLAN tags.
const VMXNET3: &str = "vmxnet3,romfile=";
/// A network card without the offloads that native XDP does not allow (`virtnet_xdp_set` in
/// `drivers/net/virtio_net.c`).
const VIRTIO: &str = "virtio-net-pci,romfile=,guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,\
                    csum=off";

/// Boots the machine, shows its console, and waits until it is off.
pub fn boot(directory: &Path, kernel: &Path, initramfs: &Path) -> Result<()> {
    let status = directory.join("status");
    match fs::remove_file(&status) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove {}", status.display()));
        }
        _ => {}
    }
    let mut machine = qemu(kernel, initramfs, &status)
        .spawn()
        .context("cannot start `qemu-system-x86_64`")?;
    let outcome = wait(&mut machine);
    if outcome.is_err() {
        // It may have ended already.
        let _ = machine.kill();
        let _ = machine.wait();
    }
    outcome?;
    match fs::read_to_string(&status).unwrap_or_default().trim() {
        "status 0" => Ok(()),
        "" => bail!("the kernel went down before the tests had ended; its last words are above"),
        _ => bail!("tests have failed, see above"),
    }
}

fn wait(machine: &mut Child) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        if machine
            .try_wait()
            .context("wait for the machine")?
            .is_some()
        {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the machine did not end within {LIMIT:?}");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn qemu(kernel: &Path, initramfs: &Path, status: &Path) -> Command {
    let mut qemu = command("qemu-system-x86_64");
    // Emulation works on every host. Kernels crash with its 16-byte compare-and-exchange and its 5-level page tables.
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max,-cx16,la57=off"])
        .args(["-smp", "2", "-m", "2G", "-display", "none", "-no-reboot"])
        .args(["-nodefaults", "-no-user-config", "-serial", "stdio"])
        .args(["-serial", &format!("file:{}", status.display())])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .args([
            "-append",
            "console=ttyS0 quiet panic=-1 oops=panic mitigations=off tsc=reliable random.trust_cpu=on",
        ])
        .stdin(Stdio::null());
    for (number, card) in (1..).zip(CARDS) {
        let hub = (number + 1) / 2;
        qemu.args(["-netdev", &format!("hubport,id=port{number},hubid={hub}")])
            .args([
                "-device",
                &format!("{card},netdev=port{number},mac=52:54:00:00:00:{number:02x}"),
            ]);
    }
    qemu
}
