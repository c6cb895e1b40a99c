//! The uplink, whatever it is called at the moment.

use crate::kernel::netlink::NetworkState;
use crate::model::{Problem, Subject};

/// Follows the uplink by its index from when it is there under its configured name, so that a new name ends nothing.
#[derive(Debug)]
pub struct Uplink {
    configured: String,
    ifindex: Option<u32>,
    name: String,
}

impl Uplink {
    /// The interface of this name.
    #[must_use]
    pub fn new(configured: &str) -> Self {
        Self {
            configured: configured.to_owned(),
            ifindex: None,
            name: configured.to_owned(),
        }
    }

    /// Looks at the interfaces that there are now.
    pub fn follow(&mut self, network: &NetworkState) {
        let known = self.ifindex.and_then(|ifindex| network.links.get(&ifindex));
        let link = known.or_else(|| network.link_named(&self.configured));
        self.ifindex = link.map(|link| link.index);
        self.name = link.map_or_else(|| self.configured.clone(), |link| link.name.clone());
    }

    /// What it is called now; as configured while it is not there.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What there is to say about its name.
    #[must_use]
    pub fn problem(&self) -> Option<Problem> {
        let Self {
            configured, name, ..
        } = self;
        (name != configured).then(|| {
            Problem::new(
                Subject::Interface(name.clone()),
                format!("the uplink {configured} is called {name} now; it is followed until office-bridge is started anew"),
                format!("give it its name back, or configure --uplink {name}"),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::netlink::{Link, LinkKind};

    fn network(links: &[(u32, &str)]) -> NetworkState {
        let links = links
            .iter()
            .map(|&(index, name)| (index, Link::example(index, name, LinkKind::Other)));
        NetworkState {
            links: links.collect(),
            ..NetworkState::default()
        }
    }

    #[test]
    fn it_is_followed_by_its_index_even_if_another_takes_its_name() {
        let mut uplink = Uplink::new("eth0");
        uplink.follow(&network(&[(2, "eth0")]));
        assert_eq!(uplink.problem(), None);
        uplink.follow(&network(&[(2, "lan0"), (3, "eth0")]));
        assert_eq!(uplink.name(), "lan0");
        let what = uplink.problem().unwrap().what;
        assert!(
            what.starts_with("the uplink eth0 is called lan0 now"),
            "{what}"
        );
    }

    #[test]
    fn one_that_is_gone_is_waited_for_under_its_configured_name() {
        let mut uplink = Uplink::new("eth0");
        uplink.follow(&network(&[(2, "eth0")]));
        uplink.follow(&network(&[(2, "lan0")]));
        uplink.follow(&network(&[]));
        assert_eq!((uplink.name(), uplink.problem()), ("eth0", None));
        uplink.follow(&network(&[(7, "lan0")]));
        assert_eq!(uplink.name(), "eth0");
        uplink.follow(&network(&[(8, "eth0")]));
        assert_eq!(uplink.ifindex, Some(8));
    }
}
