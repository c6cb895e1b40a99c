//! What strangers on the LAN and other users of the node try, to stop the bridge or to have it do their will.

use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddrV4, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lab::bridge::arguments::plus;
use lab::bridge::{binary, nothing_attached, refused};
use lab::plan::{self, HTTP_LISTEN, MYSQL_NAME, port};
use lab::{Bridge, Host, Lab, LabOptions, eventually};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// A user of the node who is not root.
const USER: u32 = 65534;
/// The listener where strangers reach it.
const ON_THE_LAN: SocketAddrV4 = SocketAddrV4::new(plan::NODE_30, 9530);
/// As many half requests as once used every descriptor.
const HALF_REQUESTS: usize = 6_300;
const SOON: Duration = Duration::from_secs(10);

#[test]
fn half_requests_from_the_lan_leave_names_and_probes_alone() {
    let lab = LabOptions::default_variant().open();
    let listen = ON_THE_LAN.to_string();
    let bridge = start_as_a_service(&lab, &["--http-listen", &listen]);
    let half = half_requests(lab.office_pc(), ON_THE_LAN);
    for _ in 0..3 {
        // The kubelet asks the node's address from the node; Prometheus from a pod or another host.
        for prober in [lab.node_30(), lab.office_pc2(), lab.worker_1()] {
            probe(prober, ON_THE_LAN, "/healthz");
        }
        // He shuts not even himself out.
        probe(lab.office_pc(), ON_THE_LAN, "/healthz");
        for transport in ["+notcp", "+tcp"] {
            let arguments = [MYSQL_NAME, "A", transport];
            let answer = lab.office_pc2().dig(plan::NODE_30, &arguments).unwrap();
            assert_eq!(answer.status, "NOERROR", "{}", answer.text);
        }
    }
    let descriptors = fs::read_dir(format!("/proc/{}/fd", bridge.id())).unwrap();
    let descriptors = descriptors.count();
    assert!(descriptors < 400, "{descriptors} descriptors");
    let metrics = lab.node_30().http_get(ON_THE_LAN, "/metrics").unwrap();
    let evicted = metric(
        &metrics.body,
        "office_bridge_http_evicted_connections_total",
    );
    assert!(evicted >= HALF_REQUESTS - 100, "{evicted}");
    assert!(metric(&metrics.body, "office_bridge_http_connections") <= 17);
    drop(half);
}

#[test]
fn half_requests_of_a_local_user_leave_probes_on_loopback_alone() {
    let lab = LabOptions::default_variant().open();
    let _bridge = start_as_a_service(&lab, &[]);
    let half = half_requests(lab.node_30(), HTTP_LISTEN);
    for path in ["/healthz", "/readyz"] {
        probe(lab.node_30(), HTTP_LISTEN, path);
    }
    drop(half);
}

#[test]
fn a_name_that_is_not_the_listeners_is_not_served() {
    let lab = LabOptions::default_variant().open();
    let listen = format!("0.0.0.0:{}", ON_THE_LAN.port());
    let arguments = ["--http-listen", &listen, "--http-host", "node-30.example"];
    let _bridge = lab.start_bridge(&arguments).unwrap();
    let status = |host: &Host, to, name| ask(host, to, name)[..12].to_owned();
    let pc = lab.office_pc();
    // A page of evil.example, whose name leads to the node by now.
    for name in ["evil.example", "evil.example:9530", "192.0.2.1:9530"] {
        assert_eq!(status(pc, ON_THE_LAN, name), "HTTP/1.1 421", "{name}");
    }
    // What kubelet and Prometheus send, what curl on the node sends, and what is configured.
    let address = ON_THE_LAN.to_string();
    for name in [&address, "localhost:9530", "node-30.example:9530"] {
        assert_eq!(status(pc, ON_THE_LAN, name), "HTTP/1.1 200", "{name}");
    }
    let loopback = HTTP_LISTEN.to_string();
    let node = lab.node_30();
    assert_eq!(status(node, HTTP_LISTEN, &loopback), "HTTP/1.1 200");
}

#[test]
fn another_user_can_neither_lock_nor_read_what_run_has_made() {
    let lab = LabOptions::default_variant().open();
    let mut bridge = lab.start_bridge(&[]).unwrap();
    let (lock, state) = (run_file(&lab, "lock"), run_file(&lab, "json"));
    for file in [&lock, &state] {
        let found = fs::metadata(file).unwrap();
        assert_eq!((found.uid(), found.mode() & 0o7777), (0, 0o600));
    }
    bridge.stop().unwrap();
    bridge.leave_installed();
    let path = lock.to_str().unwrap();
    let tried = as_user(&["flock", "--nonblock", "--shared", path, "true"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&tried.stderr);
    assert!(said.contains("Permission denied"), "{said}");
    assert!(!tried.status.success());
    let read = as_user(&["cat", state.to_str().unwrap()]).output().unwrap();
    assert!(!read.status.success());
    let mut bridge = lab.start_bridge(&[]).unwrap();
    bridge.uninstall().unwrap();
}

#[test]
fn a_lock_of_an_earlier_version_that_another_user_holds_stops_nothing() {
    let lab = LabOptions::default_variant().open();
    // With `flock` the holder lives; in a shell it has ended, and has left the lock to its parent.
    for script in [
        "exec flock $0 sleep 60",
        "exec 9<$0; flock 9; exec sleep 60",
    ] {
        let mut bridge = lab.start_bridge(&[]).unwrap();
        bridge.kill().unwrap();
        bridge.leave_installed();
        let lock = run_file(&lab, "lock");
        let dead = bridge.id();
        fs::set_permissions(&lock, Permissions::from_mode(0o644)).unwrap();
        let stranger = hold(&lock, script);

        let status = bridge.status().unwrap();
        assert_eq!(status["running"], false, "{status}");
        assert!(status["pid"].is_null(), "{dead}: {status}");
        let mut bridge = lab.start_bridge(&[]).unwrap();
        let log = bridge.log();
        let user = format!("of user {USER}, which is no office-bridge");
        assert!(log.contains(&user), "{log}");
        assert_eq!(fs::metadata(&lock).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(bridge.status().unwrap()["pid"], bridge.id());
        // It holds a file that has no name any more.
        bridge.stop().unwrap();
        bridge.leave_installed();
        bridge.uninstall().unwrap();
        drop(stranger);
    }
}

#[test]
fn a_lock_of_an_earlier_version_that_another_user_holds_stops_no_uninstall() {
    let lab = LabOptions::default_variant().open();
    let mut bridge = lab.start_bridge(&[]).unwrap();
    bridge.stop().unwrap();
    bridge.leave_installed();
    let lock = run_file(&lab, "lock");
    fs::set_permissions(&lock, Permissions::from_mode(0o644)).unwrap();
    let _stranger = hold(&lock, "exec flock $0 sleep 60");
    // With no more rights than the unit of systemd has, by which the stranger's open files can't be seen.
    let mut command = lab.node_30().command("setpriv");
    command.args(["--bounding-set=-sys_ptrace", "--inh-caps=-all"]);
    command.arg(binary().unwrap()).arg("uninstall");
    let ended = command
        .arg("--pin-path")
        .arg(lab.pin_path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{said}");
    assert!(said.contains("which is no office-bridge"), "{said}");
    nothing_attached(&lab);
}

#[test]
fn a_directory_of_locks_that_others_can_write_to_is_refused() {
    let lab = LabOptions::default_variant().open();
    for (options, words) in [
        ("mode=1777", "chmod go-w /run/office-bridge"),
        ("mode=0700,uid=65534", "belongs to user 65534"),
    ] {
        let mount = format!("mount -t tmpfs -o {options} none /run/office-bridge");
        let script = format!("mkdir -p /run/office-bridge && {mount} && exec \"$0\" \"$@\"");
        let wrapper = ["unshare", "--mount", "--propagation", "private", "sh", "-c"];
        let wrapper = [&wrapper[..], &[&script]].concat();
        let arguments = Bridge::default_arguments(&lab);
        let command = Bridge::command_under(&lab, &wrapper, &arguments).unwrap();
        let message = refused(&command, 1);
        assert!(message.contains("/run/office-bridge"), "{message}");
        assert!(message.contains(words), "{message}");
        nothing_attached(&lab);
    }
}

#[test]
fn a_pin_directory_that_another_user_has_made_first_is_refused() {
    let lab = LabOptions::default_variant().open();
    let pins = lab.pin_path();
    // On a bpffs as the kernel mounts it everybody may.
    assert_eq!(fs::metadata("/sys/fs/bpf").unwrap().mode() & 0o7777, 0o1777);
    let made = as_user(&["mkdir", pins.to_str().unwrap()])
        .status()
        .unwrap();
    assert!(made.success());
    let remedy = format!("rm -r {}", pins.display());
    let owner = format!("belongs to user {USER}");
    refused_everywhere(&lab, &pins, &[&owner, &remedy]);

    // Nor is one that is given to root afterwards, with what the other one has put there.
    let inner = pins.join("links");
    let made = as_user(&["mkdir", inner.to_str().unwrap()])
        .status()
        .unwrap();
    assert!(made.success());
    chown(&pins, Some(0), Some(0)).unwrap();
    refused_everywhere(&lab, &pins, &[inner.to_str().unwrap(), &owner]);
    fs::remove_dir(&inner).unwrap();

    fs::set_permissions(&pins, Permissions::from_mode(0o1777)).unwrap();
    refused_everywhere(&lab, &pins, &["mode 1777", "chmod go-w"]);

    fs::set_permissions(&pins, Permissions::from_mode(0o755)).unwrap();
    let mut bridge = lab.start_bridge(&[]).unwrap();
    bridge.uninstall().unwrap();
}

#[test]
fn a_symbolic_link_as_pin_path_is_resolved_and_judged() {
    let lab = LabOptions::default_variant().open();
    let link = lab.directory().join("pins");
    symlink(lab.pin_path(), &link).unwrap();
    let through = |link: &Path| {
        let mut command = run(&lab);
        command.arg("--pin-path").arg(link);
        command
    };
    let bridge = lab.start_bridge(&[]).unwrap();
    // Two names of one directory are one instance.
    let message = refused(&through(&link), 1);
    assert!(message.contains(&bridge.id().to_string()), "{message}");
    let mut status = office_bridge(&lab, "status");
    let status = status.args(["-o", "json", "--pin-path"]).arg(&link);
    let status: serde_json::Value =
        serde_json::from_slice(&status.output().unwrap().stdout).unwrap();
    assert_eq!(status["pid"], bridge.id(), "{status}");
    drop(bridge);

    // Where it leads is judged, and who could let it lead elsewhere.
    fs::create_dir(lab.pin_path()).unwrap();
    chown(lab.pin_path(), Some(USER), None).unwrap();
    refused_everywhere(&lab, &link, &[lab.pin_path().to_str().unwrap()]);
    fs::remove_dir(lab.pin_path()).unwrap();
    let open = lab.directory().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
    symlink(lab.pin_path(), open.join("pins")).unwrap();
    refused_everywhere(&lab, &open.join("pins"), &[open.to_str().unwrap(), "0777"]);
    fs::set_permissions(&open, Permissions::from_mode(0o1777)).unwrap();
    std::os::unix::fs::lchown(open.join("pins"), Some(USER), None).unwrap();
    refused_everywhere(&lab, &open.join("pins"), &["belongs to user 65534"]);
}

/// Asks as the kubelet does, which waits for 5 s with the manifests' probes.
#[track_caller]
fn probe(host: &Host, to: SocketAddrV4, path: &str) {
    let begun = Instant::now();
    let answer = host.http_get(to, path).unwrap();
    let (name, body, took) = (host.name(), &answer.body, begun.elapsed());
    assert_eq!(answer.status, 200, "{name}: {path}: {body}");
    assert!(took < Duration::from_secs(3), "{name}: {path}: {took:?}");
}

/// With the soft limit of open files that systemd gives to a service.
fn start_as_a_service(lab: &Lab, arguments: &[&str]) -> Bridge {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 1024, hard).unwrap();
    let bridge = lab.start_bridge(arguments);
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    bridge.unwrap()
}

/// Connections that have sent a part of a request, and stay.
fn half_requests(host: &Host, to: SocketAddrV4) -> Vec<TcpStream> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    host.run_in(|| {
        let mut half = Vec::new();
        for _ in 0..HALF_REQUESTS {
            let mut stream = TcpStream::connect_timeout(&to.into(), SOON)?;
            // It may have given way to the next one already.
            let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: ");
            half.push(stream);
        }
        Ok(half)
    })
    .unwrap()
}

/// The whole answer to a request for the host of this name.
fn ask(host: &Host, to: SocketAddrV4, name: &str) -> String {
    let mut stream = host.tcp(to).unwrap();
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn metric(text: &str, name: &str) -> usize {
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value
        .unwrap_or_else(|| panic!("no {name}"))
        .parse()
        .unwrap()
}

/// What `run` leaves about this lab's bridge in `/run/office-bridge`, where a hyphen of a path's component is escaped.
fn run_file(lab: &Lab, extension: &str) -> PathBuf {
    let pins = lab.pin_path();
    let name = pins.to_str().unwrap().trim_start_matches('/');
    let name = name.replace('-', "\\x2d").replace('/', "-");
    Path::new("/run/office-bridge").join(format!("{name}.{extension}"))
}

fn as_user(words: &[&str]) -> Command {
    let user = USER.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "--"]);
    command.args(words);
    command
}

/// A process, with those that it has started, that ends with this value.
struct Stranger(Child);

impl Drop for Stranger {
    fn drop(&mut self) {
        let group = i32::try_from(self.0.id()).map(Pid::from_raw);
        let _ = group.map(|group| killpg(group, Signal::SIGKILL));
        let _ = self.0.wait();
    }
}

/// Has another user lock a file by a script of the shell, which gets the file as `$0`.
fn hold(file: &Path, script: &str) -> Stranger {
    let mut command = as_user(&["sh", "-c", script, file.to_str().unwrap()]);
    let command = command.stdin(Stdio::null()).process_group(0);
    let stranger = Stranger(command.spawn().unwrap());
    eventually(SOON, "a stranger has the lock", || {
        let tried = Command::new("flock")
            .args(["--nonblock", "--shared"])
            .arg(file)
            .arg("true")
            .status();
        !tried.unwrap().success()
    });
    stranger
}

fn office_bridge(lab: &Lab, subcommand: &str) -> Command {
    let binary = binary().unwrap();
    let mut command = lab.node_30().command(binary.to_str().unwrap());
    command.arg(subcommand);
    command
}

/// `run` of this lab, whose pin path is to be added.
fn run(lab: &Lab) -> Command {
    let arguments = plus(
        &Bridge::default_arguments(lab),
        &["--http-listen", "127.0.0.1:9531"],
    );
    let mut command = office_bridge(lab, "run");
    command.args(arguments);
    command
}

/// Asserts that no command works on this pin path, with these words, and that nothing is attached.
#[track_caller]
fn refused_everywhere(lab: &Lab, pins: &Path, words: &[&str]) {
    let flush = {
        let mut command = office_bridge(lab, "flows");
        command.arg("flush");
        command
    };
    let commands = [
        run(lab),
        office_bridge(lab, "status"),
        office_bridge(lab, "services"),
        flush,
        office_bridge(lab, "uninstall"),
    ];
    for mut command in commands {
        command.arg("--pin-path").arg(pins);
        let message = refused(&command, 2);
        for word in [&["--pin-path"], words].concat() {
            assert!(message.contains(word), "no `{word}` in: {message}");
        }
    }
    let qdiscs = lab.node_30().run("tc", &["qdisc", "show"]).unwrap();
    assert!(!qdiscs.contains("clsact"), "{qdiscs}");
    let pod = lab.at("echo-1", port::ECHO);
    let reached = lab.office_pc().tcp_within(Duration::from_millis(200), pod);
    assert!(reached.is_err(), "office traffic gets through");
}
