//! What a card does to packets before anybody sees them, by the generic netlink family `ethtool`.

use ethtool::{EthtoolAttr, EthtoolFeatureAttr, EthtoolHandle};
use futures::StreamExt as _;
use tracing::debug;

/// Features that take VLAN tags off packets that come in, and the names that `ethtool -K` takes for them
/// (`netdev_features_strings` in net/ethtool/common.c; the old names are in ethtool itself).
const STRIPPING: [(&str, &str); 2] = [
    ("rx-vlan-hw-parse", "rxvlan"),
    ("rx-vlan-stag-hw-parse", "rx-vlan-stag-hw-parse"),
];

/// The features, by the names that `ethtool -K` takes, with which an interface takes VLAN tags off. If it can't be asked,
/// what most cards have.
pub(super) async fn strips_tags(interface: &str) -> Vec<&'static str> {
    match active_features(interface).await {
        Ok(active) => STRIPPING
            .into_iter()
            .filter(|(feature, _)| active.iter().any(|name| name == feature))
            .map(|(_, switch)| switch)
            .collect(),
        Err(error) => {
            debug!("the features of {interface} are unknown: {error:#}");
            vec![STRIPPING[0].1]
        }
    }
}

async fn active_features(interface: &str) -> anyhow::Result<Vec<String>> {
    let (connection, handle, _) = ethtool::new_connection()?;
    let connection = tokio::spawn(connection);
    let features = ask(handle, interface).await;
    connection.abort();
    features
}

async fn ask(mut handle: EthtoolHandle, interface: &str) -> anyhow::Result<Vec<String>> {
    let request = handle.feature().get(Some(interface));
    let mut answers = std::pin::pin!(request.execute().await?);
    let answer = answers
        .next()
        .await
        .ok_or_else(|| anyhow::anyhow!("no answer"))??;
    let active = answer
        .payload
        .nlas
        .into_iter()
        .find_map(|attribute| match attribute {
            EthtoolAttr::Feature(EthtoolFeatureAttr::Active(bits)) => Some(bits),
            _ => None,
        });
    let active = active.ok_or_else(|| anyhow::anyhow!("no features in the answer"))?;
    Ok(active
        .into_iter()
        .filter(|bit| bit.value)
        .map(|bit| bit.name)
        .collect())
}
