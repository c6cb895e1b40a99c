//! Which end-to-end tests run in which variant of the lab.
//!
//! A test file runs in every variant, unless it chooses its own variants or does not apply to one. The names are those of
//! the files in `tests/tests`.

use std::fmt;

use lab::{Datapath, Overlay, Variant};

/// Files whose tests choose datapath and overlay themselves, or do not depend on them: they run in the default variant
/// only.
const INDEPENDENT: &[&str] = &[
    "attachment",
    "demo",
    "kube_api_server",
    "kube_demo",
    "kube_deploy",
    "kube_discovery",
    "kube_proxy_stack",
    "kube_scale",
    "kube_trust",
    "lab_fixture",
    "microbench",
    "misconfiguration",
    "stack",
    "strangers",
    "supervision",
    "xdp",
    "xdp_attach",
    "xdp_next_hops",
];

/// Files whose tests choose the overlay themselves: they run once with each datapath.
const ABOUT_AN_OVERLAY: &[&str] = &["overlays"];

/// Files whose tests expect the bridge to translate services. With the stack datapath kube-proxy does that.
const NOT_WITH_STACK: &[&str] = &[
    "at_the_edges",
    "kube_outage",
    "kube_proxy",
    "kube_services",
    "services",
    "sessions",
];

/// The variants that the whole suite has to pass in.
pub fn all() -> impl Iterator<Item = Variant> {
    let datapaths = [Datapath::Stack, Datapath::Tc, Datapath::Xdp];
    datapaths.into_iter().flat_map(|datapath| {
        Overlay::ALL
            .into_iter()
            .map(move |overlay| Variant { datapath, overlay })
    })
}

/// A selection of end-to-end tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All files, in the default variant.
    Everything,
    /// The files that run in the default variant only.
    Independent,
    /// The files that depend on the variant, in this variant.
    Only(Variant),
}

impl Scope {
    /// Whether the tests of this file run.
    pub fn has(self, file: &str) -> bool {
        match self {
            Self::Everything => true,
            Self::Independent => INDEPENDENT.contains(&file),
            Self::Only(Variant { datapath, overlay }) => {
                let is_of_another_round = INDEPENDENT.contains(&file)
                    || ABOUT_AN_OVERLAY.contains(&file) && overlay != Variant::DEFAULT.overlay;
                let is_impossible = NOT_WITH_STACK.contains(&file) && datapath.is_stack();
                !is_of_another_round && !is_impossible
            }
        }
    }

    /// The variant of the labs.
    pub fn variant(self) -> Variant {
        match self {
            Self::Everything | Self::Independent => Variant::DEFAULT,
            Self::Only(variant) => variant,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything => write!(formatter, "{}", Variant::DEFAULT),
            Self::Independent => formatter.write_str("once for all variants"),
            Self::Only(variant) => write!(formatter, "{variant}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_file_that_is_named_is_there() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/tests");
        for file in [INDEPENDENT, ABOUT_AN_OVERLAY, NOT_WITH_STACK].concat() {
            let path = directory.join(file).with_extension("rs");
            assert!(path.is_file(), "{}", path.display());
        }
    }

    #[test]
    fn all_variants_together_leave_no_file_out_and_repeat_no_independent_one() {
        let rounds = |file: &str| {
            let scopes = all().map(Scope::Only).chain([Scope::Independent]);
            scopes.filter(|scope| scope.has(file)).count()
        };
        assert_eq!(
            rounds("connectivity"),
            6,
            "stack, tc and xdp on two overlays"
        );
        assert_eq!(rounds("overlays"), 3);
        assert_eq!(rounds("services"), 4);
        assert_eq!(rounds("misconfiguration"), 1);
        assert_eq!(rounds("a file that is new"), 6);
    }
}
