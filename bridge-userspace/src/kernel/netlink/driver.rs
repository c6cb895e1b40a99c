//! Which driver is behind an interface.

use std::fs;
use std::path::Path;

use futures::TryStreamExt as _;
use rtnetlink::packet_route::link::LinkAttribute;

/// The driver of the hardware behind an interface, by the name that it has on its bus; `None` for a device without such,
/// as veths and bonds are.
///
/// Sysfs shows interfaces by name and as the namespace of its mount has them; buses are the same everywhere.
pub async fn driver(ifindex: u32) -> Option<String> {
    let (connection, handle, _) = rtnetlink::new_connection().ok()?;
    let connection = tokio::spawn(connection);
    let request = handle.link().get().match_index(ifindex);
    let link = request.execute().try_next().await;
    connection.abort();
    let (mut bus, mut device) = (None, None);
    for attribute in link.ok()??.attributes {
        match attribute {
            LinkAttribute::ParentDevBusName(name) => bus = Some(name),
            LinkAttribute::ParentDevName(name) => device = Some(name),
            _ => {}
        }
    }
    let device = Path::new("/sys/bus")
        .join(bus?)
        .join("devices")
        .join(device?);
    let driver = fs::read_link(device.join("driver")).ok()?;
    Some(driver.file_name()?.to_str()?.to_owned())
}
