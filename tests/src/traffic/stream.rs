//! A steady stream of datagrams through a change: how many of them are answered, and how long none is.

use std::net::{SocketAddrV4, UdpSocket};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::hosts::host::{Host, PATIENCE};

/// Time between datagrams.
const PACE: Duration = Duration::from_millis(5);
/// How long a stream goes on after the change.
const AFTERWARDS: Duration = Duration::from_millis(500);

/// How a stream went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Datagrams sent.
    pub sent: usize,
    /// Those that were answered.
    pub answered: usize,
    /// The longest time without an answer.
    pub silence: Duration,
}

/// Sends one flow of datagrams from `host` to the UDP echo at `to` while `change` runs, and half a second longer.
pub fn during(host: &Host, to: SocketAddrV4, change: impl FnOnce()) -> Result<Stream> {
    let socket = host.udp_from(0, to)?;
    socket
        .set_read_timeout(Some(Duration::from_millis(20)))
        .context("set a timeout")?;
    let (over, all_sent) = (AtomicBool::new(false), AtomicBool::new(false));
    let sent = AtomicUsize::new(0);
    let answers = Mutex::new(vec![Instant::now()]);
    let count = || lock(&answers).len() - 1;
    let ended = thread::scope(|scope| -> Result<Instant> {
        // Also when `change` panics: the scope waits for its threads.
        let _stop = Stop(&over);
        scope.spawn(|| {
            send(&socket, &over, &sent);
            all_sent.store(true, Ordering::Release);
        });
        scope.spawn(|| receive(&socket, &all_sent, &sent, &answers));
        let started = Instant::now();
        while count() == 0 {
            ensure!(started.elapsed() < PATIENCE, "{to} answers nothing");
            thread::sleep(PACE);
        }
        change();
        thread::sleep(AFTERWARDS);
        Ok(Instant::now())
    })?;
    let mut times = answers.into_inner().unwrap_or_else(PoisonError::into_inner);
    let answered = times.len() - 1;
    if times.last().is_some_and(|&last| last < ended) {
        times.push(ended);
    }
    let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
    Ok(Stream {
        sent: sent.into_inner(),
        answered,
        silence: gaps.max().unwrap_or_default(),
    })
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn send(socket: &UdpSocket, over: &AtomicBool, sent: &AtomicUsize) {
    while !over.load(Ordering::Relaxed) {
        // An error is an earlier datagram's, by ICMP; that one is missing among the answers.
        if socket.send(b"once more").is_ok() {
            sent.fetch_add(1, Ordering::Relaxed);
        }
        thread::sleep(PACE);
    }
}

fn receive(
    socket: &UdpSocket,
    all_sent: &AtomicBool,
    sent: &AtomicUsize,
    answers: &Mutex<Vec<Instant>>,
) {
    let mut buffer = [0; 64];
    let mut deadline = None;
    loop {
        if socket.recv(&mut buffer).is_ok() {
            lock(answers).push(Instant::now());
        }
        // Not before: one that is being sent is to be waited for.
        if all_sent.load(Ordering::Acquire) {
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + AFTERWARDS);
            let all = lock(answers).len() > sent.load(Ordering::Relaxed);
            if all || Instant::now() >= deadline {
                return;
            }
        }
    }
}
