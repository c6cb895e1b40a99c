//! The programs that the lab, the tests and the image use, and the Debian packages that have them.

use std::path::PathBuf;

/// One program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tool {
    /// What is looked for on PATH and in the system's directories.
    pub program: &'static str,
    /// The Debian package that has it.
    pub package: &'static str,
    /// What it is for; shown when it is installed, or when a person has to.
    pub why: &'static str,
    /// The service that the package would start, which must not run here.
    pub unit: Option<&'static str>,
}

const fn tool(program: &'static str, package: &'static str, why: &'static str) -> Tool {
    Tool {
        program,
        package,
        why,
        unit: None,
    }
}

/// What makes the image.
pub const IMAGE_TOOLS: &[Tool] = &[tool("buildah", "buildah", "making the container image")];

/// What makes and runs virtual machines.
pub const VM_TOOLS: &[Tool] = &[
    tool("qemu-system-x86_64", "qemu-system-x86", "the machine"),
    tool("busybox", "busybox-static", "the programs in the machine"),
    tool("dash", "dash", "the shell in the machine"),
    tool("cpio", "cpio", "the file system of the machine"),
    tool("xz", "xz-utils", "unpacking modules"),
    tool("zstd", "zstd", "unpacking modules"),
    tool("ip", "iproute2", "links and routes in the machine"),
    tool("ethtool", "ethtool", "offloads, on and off"),
    tool("ping", "iputils-ping", "echo requests from the office"),
];

/// All that the lab needs. Where there is a package without a service in it, that one is named.
pub const TOOLS: &[Tool] = &[
    tool(
        "tar",
        "tar",
        "unpacking etcd and kube-apiserver from an archive",
    ),
    tool("zstd", "zstd", "the compression of that archive"),
    tool("ip", "iproute2", "the lab's namespaces, links and routes"),
    tool("tc", "iproute2", "what is attached to an interface"),
    tool("nsenter", "util-linux", "entering a host of the lab"),
    tool(
        "setpriv",
        "util-linux",
        "ending the API server with a test that dies",
    ),
    tool(
        "iptables-restore",
        "iptables",
        "the rules that kube-proxy and flannel leave on a node",
    ),
    tool("dnsmasq", "dnsmasq-base", "the office DNS"),
    Tool {
        program: "unbound",
        package: "unbound",
        why: "kube-dns in the lab",
        unit: Some("unbound.service"),
    },
    tool("ping", "iputils-ping", "echo requests from the office"),
    tool("traceroute", "traceroute", "the path as the office sees it"),
    tool("dig", "bind9-dnsutils", "DNS queries from the office"),
    tool("tcpdump", "tcpdump", "what the pods and the tunnel see"),
    tool(
        "conntrack",
        "conntrack",
        "what netfilter sees of a connection",
    ),
    tool("ethtool", "ethtool", "offloads, on and off"),
    tool("bpftool", "bpftool", "the kernel's tables by name"),
    tool("kubectl", "kubernetes-client", "rendering the manifests"),
    tool("runc", "runc", "running the bridge as a container"),
];

/// The tools that `find` does not find.
pub fn missing(tools: &[Tool], find: impl Fn(&str) -> Option<PathBuf>) -> Vec<Tool> {
    tools
        .iter()
        .filter(|tool| find(tool.program).is_none())
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn only_what_is_not_found_is_missing() {
        let found = |program: &str| (program != "dig").then(|| PathBuf::from("/usr/bin"));
        let missing: Vec<_> = missing(TOOLS, found)
            .iter()
            .map(|tool| tool.package)
            .collect();
        assert_eq!(missing, ["bind9-dnsutils"]);
    }

    #[test]
    fn each_program_is_in_the_table_once_and_has_a_reason() {
        let programs: BTreeSet<_> = TOOLS.iter().map(|tool| tool.program).collect();
        assert_eq!(programs.len(), TOOLS.len());
        assert!(
            TOOLS
                .iter()
                .all(|tool| !tool.why.is_empty() && !tool.package.contains(' '))
        );
    }
}
