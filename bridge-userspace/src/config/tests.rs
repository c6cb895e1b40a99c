use std::fs;
use std::path::Path;
use std::time::Duration;

use clap::{CommandFactory, Parser};

use super::*;
use crate::cluster::{ApiAccess, InternalTrafficPolicy, SourceSpec};
use crate::commands::cli::{Cli, Command};

/// A command line that is complete; more can be added to it.
const BASE: &str = "--uplink eth0 --office-cidr 192.168.0.0/22 --pod-cidr 10.244.0.0/16 \
                    --service-cidr 10.96.0.0/12";

fn flags(line: &str) -> RunArgs {
    let words = ["office-bridge", "run"]
        .into_iter()
        .chain(line.split_whitespace());
    match Cli::try_parse_from(words)
        .unwrap_or_else(|error| panic!("{error}"))
        .command
    {
        Command::Run(flags) => *flags,
        other => panic!("{other:?}"),
    }
}

fn load(line: &str) -> Result<(Config, Vec<String>), String> {
    load_in(line, Environment::default())
}

fn load_in(line: &str, environment: Environment) -> Result<(Config, Vec<String>), String> {
    Config::load(flags(line), environment).map_err(|error| error.to_string())
}

fn config(line: &str) -> Config {
    load(&format!("{BASE} {line}")).unwrap().0
}

#[track_caller]
fn refused(line: &str, expected: &str) {
    let error = load(line).unwrap_err();
    assert!(error.contains(expected), "{error}");
}

#[track_caller]
fn refused_with_base(line: &str, expected: &str) {
    refused(&format!("{BASE} {line}"), expected);
}

fn from_file(yaml: &str, line: &str) -> Result<(Config, Vec<String>), String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bridge.yaml");
    fs::write(&path, yaml).unwrap();
    load(&format!("--config {} {line}", path.display()))
        .map_err(|error| error.replace(&path.display().to_string(), "bridge.yaml"))
}

const FILE: &str = "
uplink: eth0
officeCidr: [192.168.0.0/22, 10.60.20.1/32]
podCidr: 10.244.0.0/16
serviceCidr:
- 10.96.0.0/12
";

#[test]
fn what_is_not_said_has_its_default() {
    let config = config("");
    assert_eq!(config.cluster, SourceSpec::Static);
    assert_eq!(config.datapath, Datapath::Auto);
    assert_eq!(config.pin_path, Path::new("/sys/fs/bpf/office-bridge"));
    assert_eq!(config.http_listen, "127.0.0.1:9530".parse().ok());
    assert_eq!(config.cluster_domain, "cluster.local");
    assert_eq!(config.flow_capacity, 262_144);
    assert_eq!(config.timeouts.tcp_established, Duration::from_hours(24));
    assert_eq!(config.dns, None);
    assert!(!config.manage_sysctls);
    assert_eq!(
        config.cluster_cidrs[0].source, "command line",
        "{:?}",
        config.cluster_cidrs
    );
}

#[test]
fn the_api_server_is_the_default_where_something_says_how_to_reach_it() {
    let in_pod = Environment {
        is_in_cluster: true,
        ..Environment::default()
    };
    let with_variable = Environment {
        has_kubeconfig: true,
        ..in_pod.clone()
    };
    let source = |line: &str, environment: &Environment| {
        let line = format!("--uplink eth0 --office-cidr 192.168.0.0/22 {line}");
        load_in(&line, environment.clone()).map(|(config, _)| config.cluster)
    };
    let kube = |access| Ok(SourceSpec::Kube(access));
    let file = || ApiAccess::Kubeconfig("/etc/kube.yaml".into());
    assert_eq!(source("", &in_pod), kube(ApiAccess::ServiceAccount));
    assert_eq!(
        source("", &with_variable),
        kube(ApiAccess::KubeconfigVariable)
    );
    assert_eq!(
        source("--kubeconfig /etc/kube.yaml", &with_variable),
        kube(file())
    );
    assert_eq!(
        source("--cluster kube", &with_variable),
        kube(ApiAccess::KubeconfigVariable)
    );
    assert_eq!(
        source("--cluster static --pod-cidr 10.244.0.0/16", &with_variable),
        Ok(SourceSpec::Static)
    );
    assert_eq!(
        source("--cluster manifests=/m", &with_variable),
        Ok(SourceSpec::Manifests("/m".into()))
    );
    let yaml = "uplink: eth0\nofficeCidr: 192.168.0.0/22\nkubeconfig: /etc/kube.yaml\n";
    assert_eq!(
        from_file(yaml, "").map(|(config, _)| config.cluster),
        kube(file())
    );
}

#[test]
fn an_api_server_that_nothing_leads_to_is_refused() {
    refused_with_base("--cluster kube", "give --kubeconfig FILE");
    refused_with_base(
        "--cluster static --kubeconfig /etc/kube.yaml",
        "--cluster static does not ask the API server",
    );
}

#[test]
fn a_node_that_honors_traffic_policies_knows_its_name() {
    let policy = |line: &str, environment: Environment| {
        load_in(&format!("{BASE} {line}"), environment)
            .map(|(config, _)| config.internal_traffic_policy)
    };
    let honor = |node: &str| {
        Ok(InternalTrafficPolicy::Honor {
            node: node.to_owned(),
        })
    };
    let host = Environment {
        hostname: Some("host-30".to_owned()),
        ..Environment::default()
    };
    let pod = Environment {
        node_name: Some("node-30".to_owned()),
        ..host.clone()
    };
    let flag = "--internal-traffic-policy honor";
    assert_eq!(policy("", pod.clone()), Ok(InternalTrafficPolicy::Ignore));
    assert_eq!(policy(flag, host), honor("host-30"));
    assert_eq!(policy(flag, pod.clone()), honor("node-30"));
    assert_eq!(policy(&format!("{flag} --node-name n1"), pod), honor("n1"));
    refused_with_base(flag, "give --node-name");
    refused_with_base("--internal-traffic-policy local", "say `ignore` or `honor`");
}

#[test]
fn every_flag_has_a_field_of_the_same_name() {
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap();
    let mut seen = 0;
    for argument in run.get_arguments() {
        let Some(flag) = argument.get_long() else {
            continue;
        };
        if matches!(flag, "config" | "help" | "version") {
            continue;
        }
        seen += 1;
        let mut field = String::new();
        let mut after_dash = false;
        for letter in flag.chars() {
            match (letter, after_dash) {
                ('-', _) => after_dash = true,
                (letter, true) => {
                    field.push(letter.to_ascii_uppercase());
                    after_dash = false;
                }
                (letter, false) => field.push(letter),
            }
        }
        let value = match flag {
            "answer-ping" | "no-dns" | "no-http" | "manage-sysctls" => "true",
            "flow-capacity" => "4096",
            "cluster" => "static",
            _ => "x",
        };
        let parsed = file::parse(Path::new("f"), &format!("{field}: {value}")).unwrap();
        assert_ne!(parsed, RunArgs::default(), "{field} is read and forgotten");
        let merged = check::Settings::merge(RunArgs::default(), Some((parsed.clone(), "f".into())));
        assert_eq!(merged.args(), &parsed, "{field} is lost in the merge");
    }
    assert!(seen >= 15, "{seen}");
}

#[test]
fn flags_win_over_the_file_lists_as_a_whole() {
    let (file_only, _) = from_file(FILE, "").unwrap();
    assert_eq!(file_only.office_cidrs.len(), 2);
    assert_eq!(file_only.uplink, "eth0");

    let (both, _) = from_file(FILE, "--uplink eth1 --office-cidr 172.16.0.0/24").unwrap();
    assert_eq!(both.uplink, "eth1");
    assert_eq!(both.office_cidrs, ["172.16.0.0/24".parse().unwrap()]);
    assert_eq!(both.cluster_cidrs.len(), 2);

    let (off, _) = from_file(
        &format!("{FILE}manageSysctls: true\n"),
        "--manage-sysctls=false",
    )
    .unwrap();
    assert!(!off.manage_sysctls);
    let (silent, _) = from_file(&format!("{FILE}answerPing: false\n"), "").unwrap();
    assert!(!silent.answer_ping && off.answer_ping);
}

#[test]
fn the_source_of_a_network_is_the_place_where_it_stands() {
    let (config, _) = from_file(FILE, "--pod-cidr 10.240.0.0/16").unwrap();
    assert_eq!(config.cluster_cidrs[0].source, "command line");
    assert!(config.cluster_cidrs[1].source.ends_with("bridge.yaml"));
}

#[test]
fn an_unknown_field_is_reported_with_file_and_line() {
    let error = from_file(&format!("{FILE}officeCidrs: []\n"), "").unwrap_err();
    assert!(error.starts_with("bridge.yaml:7: "), "{error}");
    assert!(error.contains("officeCidrs"), "{error}");
    assert!(error.contains("officeCidr"), "{error}");
    let error = from_file("timeouts:\n  tcp: 5\n", "").unwrap_err();
    assert!(error.starts_with("bridge.yaml:2: "), "{error}");
}

#[test]
fn a_file_that_is_no_yaml_or_has_wrong_types_is_reported_with_its_line() {
    for yaml in [
        "uplink: eth0\nofficeCidr: [\n",
        "uplink: eth0\nflowCapacity: many\n",
        "uplink: eth0\nflowCapacity: -1\n",
        "uplink: eth0\nofficeCidr: {a: b}\n",
        "uplink: eth0\nmanageSysctls: perhaps\n",
        "uplink: eth0\ncluster: api\n",
        "uplink: eth0\nuplink: eth1\n",
    ] {
        let error = from_file(yaml, "").unwrap_err();
        assert!(
            error.starts_with("bridge.yaml:2: ") || error.starts_with("bridge.yaml:3: "),
            "{error}"
        );
    }
    let error = load("--config /nonexistent/bridge.yaml").unwrap_err();
    assert_eq!(
        error,
        "cannot read /nonexistent/bridge.yaml: No such file or directory (os error 2)"
    );
}

#[test]
fn an_empty_file_says_nothing() {
    for yaml in ["", "# nothing yet\n", "---\n"] {
        let (config, _) = from_file(yaml, BASE).unwrap();
        assert_eq!(config.uplink, "eth0");
    }
}

#[test]
fn what_must_be_said_is_asked_for() {
    refused("", "--uplink is missing");
    refused("--uplink eth0", "--office-cidr is missing");
    refused(
        "--uplink eth0 --office-cidr 192.168.0.0/22",
        "--cluster static knows only the networks that it is given",
    );
    load("--uplink eth0 --office-cidr 192.168.0.0/22 --cluster manifests=/etc/x").unwrap();
}

#[test]
fn a_name_that_no_interface_can_have_is_refused() {
    for name in ["averyveryverylongname", "a/b", "..", "a:b"] {
        refused(
            &format!("--uplink {name}"),
            "cannot be the name of an interface",
        );
    }
}

#[test]
fn cidrs_are_checked_with_the_flag_in_the_message() {
    refused(
        "--uplink eth0 --office-cidr 192.168.1.7/22",
        "--office-cidr (command line): `192.168.1.7/22` is a host's address; its network is \
         192.168.0.0/22",
    );
    refused("--uplink eth0 --office-cidr fd00::/8", "is IPv6");
    refused_with_base("--pod-cidr 10.244.0.0", "has no prefix length");
    refused_with_base("--dns-allow 10.0.0.1/8", "--dns-allow (configuration)");
}

#[test]
fn networks_that_contradict_each_other_are_refused() {
    refused_with_base(
        "--office-cidr 10.0.0.0/8",
        "contains pod CIDR 10.244.0.0/16",
    );
    refused_with_base("--office-cidr 192.168.1.0/24", "lies inside office CIDR");
    refused_with_base("--office-cidr 192.168.0.0/22", "is given twice");
    refused_with_base(
        "--service-cidr 10.244.3.0/24",
        "pods and services cannot share",
    );
}

#[test]
fn several_offices_single_hosts_and_big_service_networks_are_fine() {
    let config = load(
        "--uplink eth0 --office-cidr 192.168.0.0/22 --office-cidr 10.60.20.1/32 \
         --service-cidr 100.64.0.0/10 --pod-cidr 10.244.0.0/24",
    )
    .unwrap()
    .0;
    assert_eq!(config.office_cidrs.len(), 2);
}

#[test]
fn sources_and_datapaths_that_do_not_exist_are_refused() {
    for (value, expected) in [
        (
            "api",
            "`api` is no cluster source; write `kube`, `manifests=DIR` or `static`",
        ),
        ("manifests", "needs a directory"),
        ("manifests=", "is no cluster source"),
        ("static=x", "is no cluster source"),
        ("kube=x", "is no cluster source"),
    ] {
        let error = Cli::try_parse_from(["office-bridge", "run", "--cluster", value]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(expected), "{error}");
    }
    refused_with_base("--datapath dpdk", "`dpdk` is no datapath");
    for (name, datapath) in [
        ("auto", Datapath::Auto),
        ("xdp", Datapath::Xdp),
        ("tc", Datapath::Tc),
        ("stack", Datapath::Stack),
    ] {
        assert_eq!(config(&format!("--datapath {name}")).datapath, datapath);
    }
}

#[test]
fn translated_addresses_must_let_replies_come_home() {
    assert_eq!(
        config("--snat-address 10.244.30.0 --snat-address 10.60.20.30")
            .snat_addresses
            .len(),
        2
    );
    for (address, expected) in [
        ("10.60.20", "no IPv4 address"),
        ("fd00::1", "IPv6"),
        ("127.0.0.1", "no reply can come home"),
        ("0.0.0.0", "no reply can come home"),
        ("192.168.0.9", "lies in office CIDR 192.168.0.0/22"),
        ("10.96.0.1", "lies in service CIDR"),
    ] {
        refused_with_base(&format!("--snat-address {address}"), expected);
    }
    refused_with_base(
        "--snat-address 10.60.20.30 --snat-address 10.60.20.30",
        "given twice",
    );
}

#[test]
fn the_dns_relay_needs_both_ends() {
    let dns = config(
        "--dns-listen 10.60.20.30:53 --dns-upstream 10.96.0.10:53 --dns-allow 172.16.0.0/12",
    )
    .dns
    .unwrap();
    assert_eq!(dns.listen, ["10.60.20.30:53".parse().unwrap()]);
    assert_eq!(dns.allow, ["172.16.0.0/12".parse().unwrap()]);
    refused_with_base("--dns-listen 10.60.20.30:53", "without --dns-upstream");
    refused_with_base("--dns-upstream 10.96.0.10:53", "without --dns-listen");
    assert_eq!(
        config("--dns-listen 10.60.20.30:53 --dns-upstream 10.96.0.10:53 --no-dns").dns,
        None
    );
    let yaml = format!("{FILE}dnsListen: 10.60.20.30:53\ndnsUpstream: [10.96.0.10:53]\n");
    assert!(from_file(&yaml, "").unwrap().0.dns.is_some());
    assert!(from_file(&yaml, "--no-dns").unwrap().0.dns.is_none());
}

#[test]
fn a_dns_relay_that_asks_itself_is_refused() {
    refused_with_base(
        "--dns-listen 10.60.20.30:53 --dns-upstream 10.60.20.30:53",
        "round in circles",
    );
    refused_with_base(
        "--dns-listen 0.0.0.0:53 --dns-upstream 127.0.0.53:53",
        "round in circles",
    );
    config("--dns-listen 10.60.20.30:53 --dns-upstream 10.60.20.30:5353");
    refused_with_base(
        "--dns-listen 10.60.20.30:53 --dns-upstream 0.0.0.0:53",
        "no server's address",
    );
    refused_with_base(
        "--dns-listen 0.0.0.0:53 --dns-listen 10.60.20.30:53 --dns-upstream 10.96.0.10:53",
        "take the same queries",
    );
}

#[test]
fn status_and_metrics_can_be_served_elsewhere_or_not_at_all() {
    let listen = config("--http-listen 0.0.0.0:9000").http_listen;
    assert_eq!(listen, "0.0.0.0:9000".parse().ok());
    assert_eq!(config("--no-http").http_listen, None);
    let yaml = format!("{FILE}noHttp: true\n");
    assert_eq!(from_file(&yaml, "").unwrap().0.http_listen, None);
    let (back, _) = from_file(&yaml, "--no-http=false").unwrap();
    assert!(back.http_listen.is_some());
}

#[test]
fn sockets_are_an_ipv4_address_and_a_port() {
    for (socket, expected) in [
        ("10.60.20.30", "the port is missing, as in 10.60.20.30:53"),
        (":53", "this is not ADDR:PORT"),
        ("10.60.20.30:0", "port 0"),
        ("10.60.20.30:99999", "this is not ADDR:PORT"),
        ("[fd00::1]:53", "this is IPv6"),
    ] {
        refused_with_base(&format!("--dns-listen {socket}"), expected);
        refused_with_base(&format!("--http-listen {socket}"), expected);
    }
}

#[test]
fn timeouts_below_the_rfcs_are_allowed_with_a_remark() {
    let (config, warnings) =
        from_file(&format!("{FILE}timeouts: {{udp: 30, icmp: 90}}\n"), "").unwrap();
    assert_eq!(config.timeouts.udp, Duration::from_secs(30));
    assert_eq!(config.timeouts.icmp, Duration::from_secs(90));
    assert_eq!(config.timeouts.udp_unreplied, Duration::from_mins(2));
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("RFC 4787 REQ-5"), "{warnings:?}");
    let error = from_file(&format!("{FILE}timeouts: {{icmp: 0}}\n"), "").unwrap_err();
    assert!(error.contains("timeouts.icmp is 0"), "{error}");
    let error = from_file(
        &format!("{FILE}timeouts: {{tcpEstablished: 4000000000}}\n"),
        "",
    )
    .unwrap_err();
    assert!(error.contains("more than 30 days"), "{error}");
}

#[test]
fn other_values_out_of_range_are_refused() {
    refused_with_base("--flow-capacity 10", "choose from 1024 to 16777216");
    refused_with_base("--pin-path pins", "absolute path");
    refused_with_base("--pin-path /", "absolute path");
    refused_with_base("--cluster-domain a..b", "is no domain name");
    assert_eq!(
        config("--cluster-domain Cluster.Local.").cluster_domain,
        "cluster.local"
    );
}
