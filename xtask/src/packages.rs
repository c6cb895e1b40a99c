//! The programs that the lab, the tests, the bench and the image need, and their Debian packages.

use std::path::PathBuf;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tool {
    /// Name of the executable.
    pub program: &'static str,
    pub package: &'static str,
    /// What it is for; printed before it is installed.
    pub why: &'static str,
    /// The systemd unit of the package, which must not be started.
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

/// What building the image needs.
pub const IMAGE_TOOLS: &[Tool] = &[tool("buildah", "buildah", "making the container image")];

/// What the bench needs beside [`TOOLS`].
pub const BENCH_TOOLS: &[Tool] = &[tool("nft", "nftables", "masquerading with nftables")];

/// What virtual machines need.
pub const VM_TOOLS: &[Tool] = &[
    tool("qemu-system-x86_64", "qemu-system-x86", "the machine"),
    tool("busybox", "busybox-static", "the programs in the machine"),
    tool("dash", "dash", "the shell in the machine"),
    tool("cpio", "cpio", "the file system of the machine"),
    tool("xz", "xz-utils", "unpacking modules"),
    tool("zstd", "zstd", "unpacking modules"),
    tool("ip", "iproute2", "links and routes in the machine"),
    tool("tc", "iproute2", "what is attached to an interface"),
    tool("ethtool", "ethtool", "offloads, on and off"),
    tool("ping", "iputils-ping", "echo requests from the office"),
];

/// What the lab needs. If there is a package without a service, it is that one.
pub const TOOLS: &[Tool] = &[
    tool(
        "tar",
        "tar",
        "unpacking etcd and kube-apiserver from an archive",
    ),
    tool("zstd", "zstd", "the compression of that archive"),
    tool("ip", "iproute2", "the lab's namespaces, links and routes"),
    tool("bridge", "iproute2", "the tunnels' forwarding tables"),
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
    tool("iptables", "iptables", "single rules"),
    tool("iptables-save", "iptables", "the counters of the rules"),
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
    tool(
        "nslookup",
        "bind9-dnsutils",
        "DNS queries as Windows makes them",
    ),
    tool("sysctl", "procps", "settings of a node's kernel"),
    tool("tcpdump", "tcpdump", "what the pods and the tunnel see"),
    tool("strace", "strace", "failing system calls of the bridge"),
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

/// The tools that are not installed.
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
    use std::fs;
    use std::path::Path;

    use proc_macro2::{Delimiter, TokenStream, TokenTree};

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
    fn each_program_is_in_a_table_once_and_has_a_reason() {
        for table in [TOOLS, BENCH_TOOLS, VM_TOOLS, IMAGE_TOOLS] {
            let programs: BTreeSet<_> = table.iter().map(|tool| tool.program).collect();
            assert_eq!(programs.len(), table.len());
            assert!(
                table
                    .iter()
                    .all(|tool| !tool.why.is_empty() && !tool.package.contains(' '))
            );
        }
    }

    #[test]
    fn every_program_that_is_called_is_in_the_table_of_its_caller() {
        let callers: [(&str, &[&[Tool]]); 6] = [
            ("tests/src", &[TOOLS]),
            ("tests/tests", &[TOOLS]),
            ("bridge-userspace/tests", &[TOOLS]),
            ("xtask/src/bench", &[TOOLS, BENCH_TOOLS]),
            ("xtask/src/vm", &[VM_TOOLS]),
            ("xtask/src/image.rs", &[IMAGE_TOOLS]),
        ];
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for (caller, tables) in callers {
            let mut calls = BTreeSet::new();
            read_calls(&workspace.join(caller), &mut calls);
            assert!(!calls.is_empty(), "{caller} calls something");
            let known = tables.concat();
            calls.retain(|program| {
                !EVERYWHERE.contains(&program.as_str())
                    && !known.iter().any(|tool| tool.program == program)
            });
            assert_eq!(calls, BTreeSet::new(), "{caller} calls what no table has");
        }
    }

    #[test]
    fn a_call_is_found_wherever_it_is() {
        let text = r#"
            let mut a = Command::new("ip");
            assert!(host.run("tc", &["show"]).unwrap().contains("cls"));
            vec![namespace.command("dig").arg("x")];
            let b = Other::new("not");
            demo.run("two words");
            label("neither");
        "#;
        let mut calls = BTreeSet::new();
        find_calls(text.parse().expect("tokens"), &mut calls);
        assert_eq!(calls, ["dig", "ip", "tc"].map(str::to_owned).into());
    }

    /// Adds the names of programs that are called in the Rust files there.
    fn read_calls(path: &Path, calls: &mut BTreeSet<String>) {
        if path.is_dir() {
            for entry in fs::read_dir(path).expect("a directory") {
                read_calls(&entry.expect("an entry").path(), calls);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(path).expect("a file");
            find_calls(text.parse().expect("Rust"), calls);
        }
    }

    /// `Command::new`, and what the lab and xtask call such functions of their own.
    const CALLS: [&str; 9] = [
        "new",
        "command",
        "bound_command",
        "run",
        "run_with",
        "output",
        "feed",
        "printed",
        "unpack",
    ];

    fn find_calls(tokens: TokenStream, calls: &mut BTreeSet<String>) {
        let mut before = [String::new(), String::new(), String::new(), String::new()];
        for token in tokens {
            if let TokenTree::Group(group) = &token {
                let [of, .., function] = &before;
                let is_call = group.delimiter() == Delimiter::Parenthesis
                    && CALLS.contains(&function.as_str())
                    && (function != "new" || of == "Command");
                calls.extend(program(group.stream()).filter(|_| is_call));
                find_calls(group.stream(), calls);
            }
            before.rotate_left(1);
            before[3] = token.to_string();
        }
    }

    /// The first of some arguments, if it is the name of a program.
    fn program(arguments: TokenStream) -> Option<String> {
        let first = arguments.into_iter().next()?.to_string();
        let name = first.strip_prefix('"')?.strip_suffix('"')?;
        let is_name = name.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte)
        });
        is_name.then(|| name.to_owned())
    }

    /// Programs of packages that are part of every Debian system (`Essential: yes` or `Priority: required`).
    const EVERYWHERE: [&str; 11] = [
        "date", "find", "flock", "ldd", "mount", "prlimit", "renice", "sh", "timeout", "uname",
        "unshare",
    ];
}
