//! The DNS relay on its own: `dns_relay LISTEN UPSTREAM ALLOWED-CIDR`, for load tests.
//!
//! Prints its counters as JSON when it is interrupted.

use std::error::Error;

use bridge_userspace::dns::{Config, Relay};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, upstream, allow] = arguments.as_slice() else {
        return Err("usage: dns_relay LISTEN UPSTREAM ALLOWED-CIDR".into());
    };
    let config = Config::new(
        vec![listen.parse()?],
        vec![upstream.parse()?],
        vec![allow.parse()?],
    );
    let relay = Relay::bind(&config)?;
    let handle = relay.handle();
    relay
        .run(async {
            if let Err(error) = tokio::signal::ctrl_c().await {
                eprintln!("can't wait for Ctrl-C: {error}");
            }
        })
        .await?;
    println!("{}", serde_json::to_string_pretty(&handle.snapshot())?);
    Ok(())
}
