//! Accepting connections, whatever happens.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};
use tracing::warn;

/// Pause when connections can't be accepted, mostly for want of file descriptors: the listener stays ready, so that the
/// next attempt would follow at once.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// How often that is logged.
const BETWEEN_WARNINGS: Duration = Duration::from_mins(1);

/// A listener that goes on after errors.
#[derive(Debug)]
pub struct Acceptor {
    listener: TcpListener,
    what: &'static str,
    warned: Option<Instant>,
}

impl Acceptor {
    /// For a listener of what is called so in the log: `DNS`.
    #[must_use]
    pub fn new(listener: TcpListener, what: &'static str) -> Self {
        Self {
            listener,
            what,
            warned: None,
        }
    }

    /// The next connection. Nothing is lost if this is dropped before it completes.
    pub async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok(accepted) => return accepted,
                // The client has given up before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    if is_due(self.warned, Instant::now()) {
                        self.warned = Some(Instant::now());
                        warn!(%error, "{} connections can't be accepted", self.what);
                    }
                    sleep(ERROR_PAUSE).await;
                }
            }
        }
    }
}

fn is_due(warned: Option<Instant>, now: Instant) -> bool {
    warned.is_none_or(|warned| now - warned >= BETWEEN_WARNINGS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_lasts_is_logged_once_a_minute() {
        let now = Instant::now();
        assert!(is_due(None, now));
        assert!(!is_due(Some(now), now + Duration::from_secs(59)));
        assert!(is_due(Some(now), now + BETWEEN_WARNINGS));
    }
}
