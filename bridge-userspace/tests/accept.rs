//! A listener without file descriptors. Alone in its process, whose limit it lowers.

use std::fs::File;
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use bridge_userspace::kernel::accept::Acceptor;
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::time::TimeValLike as _;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

#[tokio::test]
async fn without_descriptors_nothing_spins_and_with_them_it_goes_on() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut acceptor = Acceptor::new(listener, "test");
    let _client = TcpStream::connect(address).unwrap();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let lowest_free = File::open("/dev/null").unwrap().as_raw_fd();
    let limit = lowest_free.try_into().unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, limit, hard).unwrap();

    let before = processor_time();
    timeout(Duration::from_secs(2), acceptor.accept())
        .await
        .unwrap_err();
    let spent = processor_time().saturating_sub(before);
    assert!(spent < Duration::from_millis(200), "{spent:?}");

    let later = tokio::spawn(async move {
        sleep(Duration::from_millis(150)).await;
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    });
    let accepted = timeout(Duration::from_secs(5), acceptor.accept()).await;
    accepted.unwrap();
    later.await.unwrap();
}

fn processor_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let spent = usage.user_time() + usage.system_time();
    Duration::from_micros(spent.num_microseconds().try_into().unwrap())
}
