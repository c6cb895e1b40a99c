use std::fs;
use std::path::Path;
use std::time::Duration;

use clap::{Arg, CommandFactory};

use super::*;
use crate::cluster::{ApiAccess, InternalTrafficPolicy, SourceSpec};
use crate::commands::cli::Cli;

/// A command line that is complete; more can be added to it.
const BASE: &str = "--uplink eth0 --office-cidr 192.168.0.0/22 --pod-cidr 10.244.0.0/16 \
                    --service-cidr 10.96.0.0/12";

fn load(line: &str) -> Result<(Config, Findings), String> {
    load_in(line, Environment::default())
}

fn load_in(line: &str, environment: Environment) -> Result<(Config, Findings), String> {
    Config::load(RunArgs::of(line), environment).map_err(|error| error.to_string())
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

fn from_file(yaml: &str, line: &str) -> Result<(Config, Findings), String> {
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
    let http = config.http.unwrap();
    assert_eq!(http.listen, "127.0.0.1:9530".parse().unwrap());
    assert!(http.hosts.is_empty());
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
    refused_with_base(
        "--internal-traffic-policy local",
        "write `ignore` or `honor`",
    );
}

#[test]
fn every_setting_can_be_read_from_the_file_and_most_from_a_flag_of_the_same_name() {
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap();
    let known: Vec<&str> = run.get_arguments().filter_map(Arg::get_long).collect();
    for facts in settings() {
        let value = match facts.kind {
            Kind::Switch => "true",
            Kind::Number => "4096",
            Kind::Text | Kind::Path | Kind::List => "x",
        };
        let yaml = match facts.field.split_once('.') {
            Some((group, field)) => format!("{group}:\n  {field}: {value}\n"),
            None => format!("{}: {value}\n", facts.field),
        };
        let mut findings = Findings::default();
        let read = file::parse(Path::new("f"), &yaml, &mut findings).unwrap();
        assert_eq!(findings, Findings::default(), "{yaml}");
        assert_ne!(read, Settings::default(), "{yaml} is read and forgotten");
        assert_eq!(Settings::default().over(read.clone()), read);

        let Some(flag) = facts.flag else {
            continue;
        };
        assert_eq!(flag.name, kebab_case(facts.field));
        assert!(known.contains(&flag.name), "{}", flag.name);
        let given = RunArgs::of(&format!("--{}={value}", flag.name)).settings;
        assert_ne!(given, Settings::default(), "--{} is forgotten", flag.name);
        assert_eq!(given.clone().over(read), given, "a flag wins");
    }
    assert!(settings().count() >= 25);
}

fn kebab_case(field: &str) -> String {
    let mut flag = String::new();
    for letter in field.chars() {
        if letter.is_ascii_uppercase() {
            flag.push('-');
        }
        flag.push(letter.to_ascii_lowercase());
    }
    flag
}

#[test]
fn defaults_in_the_help_are_those_that_hold() {
    let help = Cli::command()
        .find_subcommand_mut("run")
        .unwrap()
        .render_long_help()
        .to_string();
    let config = config("");
    for shown in [
        config.flow_capacity.to_string(),
        config.http.unwrap().listen.to_string(),
        config.pin_path.display().to_string(),
        config.cluster_domain,
        config.answer_ping.to_string(),
    ] {
        assert!(
            help.contains(&format!("[default: {shown}]")),
            "{shown}: {help}"
        );
    }
    let seconds = |field: &str| {
        let facts = settings().find(|facts| facts.field == field).unwrap();
        facts.default.shown().unwrap()
    };
    let timeouts = config.timeouts;
    assert_eq!(
        seconds("timeouts.tcpEstablished"),
        timeouts.tcp_established.as_secs().to_string()
    );
    assert_eq!(
        seconds("timeouts.icmp"),
        timeouts.icmp.as_secs().to_string()
    );
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let findings = Config::load(
        RunArgs::of("--uplink a/b --office-cidr 192.168.0.0/33 --pod-cidr 10.244.0.0 --flow-capacity 1 --datapath dpdk"),
        Environment::default(),
    )
    .unwrap_err();
    let subjects: Vec<String> = findings
        .iter()
        .map(|finding| finding.subject.to_string())
        .collect();
    assert_eq!(
        subjects,
        [
            "setting uplink",
            "setting officeCidr",
            "setting podCidr",
            "setting datapath",
            "setting flowCapacity"
        ]
    );
    assert!(findings.is_usage());
    assert!(
        findings
            .to_string()
            .starts_with("5 errors:\n- --uplink: `a/b`"),
        "{findings}"
    );
}

#[test]
fn everything_that_is_wrong_in_a_file_is_told_with_its_line() {
    let yaml = "uplink: eth0
officeCidrs: [192.168.0.0/22]
podCidr: [10.244.0.0/40]
flowCapacity: many
timeouts:
  udp: soon
  tcp: 5
  icmp: 0
manageSysctls: perhaps
";
    let error = from_file(yaml, "").unwrap_err();
    let causes: Vec<&str> = error
        .lines()
        .filter_map(|line| line.strip_prefix("- "))
        .collect();
    let starts = [
        "bridge.yaml:2: ",
        "bridge.yaml:4: ",
        "bridge.yaml:6: ",
        "bridge.yaml:7: ",
        "bridge.yaml:9: ",
        "--office-cidr is missing",
        "bridge.yaml:3: podCidr (",
        "bridge.yaml:8: timeouts.icmp is 0",
    ];
    assert_eq!(causes.len(), starts.len(), "{error}");
    for (cause, start) in causes.iter().zip(starts) {
        assert!(cause.starts_with(start), "{start} in {error}");
    }
    for remedy in [
        "remedy: `flowCapacity` takes a whole number",
        "remedy: the fields here are `tcpEstablished`, ",
        "remedy: `manageSysctls` takes `true` or `false`",
    ] {
        assert!(error.contains(remedy), "{remedy}: {error}");
    }
}

#[test]
fn a_flag_is_read_where_its_field_is_wrong_and_the_field_is_told_all_the_same() {
    let yaml = "uplink: [eth0]\n";
    let error = from_file(yaml, BASE).unwrap_err();
    assert!(error.starts_with("bridge.yaml:1: "), "{error}");
    assert!(error.ends_with("`uplink` takes a text"), "{error}");
    // That it is missing would be no news.
    let error = from_file(
        yaml,
        "--office-cidr 192.168.0.0/22 --pod-cidr 10.244.0.0/16",
    )
    .unwrap_err();
    assert!(error.starts_with("bridge.yaml:1: "), "{error}");
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
    let error = from_file("timeouts:\n  tcp: 5\n", BASE).unwrap_err();
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
        let error = from_file(
            yaml,
            "--office-cidr 192.168.0.0/22 --pod-cidr 10.244.0.0/16",
        )
        .unwrap_err();
        assert!(
            error.starts_with("bridge.yaml:2: ") || error.starts_with("bridge.yaml:3: "),
            "{error}"
        );
    }
    let error = load("--config /nonexistent/bridge.yaml").unwrap_err();
    assert!(
        error.starts_with(
            "cannot read /nonexistent/bridge.yaml: No such file or directory (os error 2)"
        ),
        "{error}"
    );
}

#[test]
fn a_file_that_is_no_yaml_is_one_error() {
    let error = from_file("uplink: eth0\nofficeCidr: [\n", "").unwrap_err();
    assert!(error.starts_with("bridge.yaml:2: unclosed"), "{error}");
    assert!(error.ends_with("correct the YAML there"), "{error}");
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
        "--uplink eth0 --office-cidr 192.168.1.7/22 --pod-cidr 10.244.0.0/16",
        "--office-cidr (command line): `192.168.1.7/22` is a host's address; its network is \
         192.168.0.0/22",
    );
    refused("--uplink eth0 --office-cidr fd00::/8", "is IPv6");
    refused_with_base("--pod-cidr 10.244.0.0", "has no prefix length");
    refused_with_base("--dns-allow 10.0.0.1/8", "--dns-allow (command line)");
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
        refused_with_base(&format!("--cluster {value}"), expected);
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
fn translated_addresses_must_let_replies_come_back() {
    assert_eq!(
        config("--snat-address 10.244.30.0 --snat-address 10.60.20.30")
            .snat_addresses
            .len(),
        2
    );
    for (address, expected) in [
        ("10.60.20", "no IPv4 address"),
        ("fd00::1", "IPv6"),
        ("127.0.0.1", "no reply can come back"),
        ("0.0.0.0", "no reply can come back"),
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
    let http = config("--http-listen 0.0.0.0:9000").http.unwrap();
    assert_eq!(http.listen, "0.0.0.0:9000".parse().unwrap());
    assert_eq!(config("--no-http").http, None);
    let yaml = format!("{FILE}noHttp: true\n");
    assert_eq!(from_file(&yaml, "").unwrap().0.http, None);
    let (back, _) = from_file(&yaml, "--no-http=false").unwrap();
    assert!(back.http.is_some());
}

#[test]
fn hosts_of_the_http_listener_are_names_and_addresses_without_a_port() {
    let line = "--http-host Node-30.Example. --http-host 10.96.7.7";
    let http = config(line).http.unwrap();
    assert_eq!(http.hosts, ["node-30.example", "10.96.7.7"]);
    for wrong in ["node-30:9530", "http://node-30", "*", "[fd00::1]", "a..b"] {
        refused_with_base(
            &format!("--http-host {wrong}"),
            "is no name and no IPv4 address; write it without a port",
        );
    }
}

#[test]
fn sockets_are_an_ipv4_address_and_a_port() {
    for (socket, expected) in [
        (
            "10.60.20.30",
            "the port is missing; write it as in 10.60.20.30:53",
        ),
        (":53", "this is not ADDR:PORT"),
        ("10.60.20.30:0", "port 0"),
        ("10.60.20.30:99999", "this is not ADDR:PORT"),
        ("[fd00::1]:53", "this is IPv6"),
    ] {
        refused_with_base(
            &format!("--dns-listen {socket} --dns-upstream 10.96.0.10:53"),
            expected,
        );
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
    let [warning] = &warnings.into_iter().collect::<Vec<_>>()[..] else {
        panic!("one warning expected")
    };
    assert!(warning.cause.contains("RFC 4787 REQ-5"), "{warning}");
    assert!(!warning.is_error());
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
