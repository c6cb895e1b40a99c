use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use tokio::sync::watch::Receiver;
use tokio::time::timeout;

use super::*;
use crate::cluster::{DesiredState, InternalTrafficPolicy, Update, feed};

fn node(name: &str, pods: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\nspec: {{podCIDRs: [{pods}]}}\n"
    )
}

fn follow(path: &Path) -> Result<Receiver<Option<Update>>, Findings> {
    let rules = Rules {
        explicit: Vec::new(),
        internal_traffic_policy: InternalTrafficPolicy::Ignore,
    };
    let (publisher, feed) = feed::channel();
    let manifests = Manifests::open(path, rules, publisher)?;
    tokio::spawn(async move { manifests.follow().await });
    let mut desired = feed.desired;
    desired.mark_unchanged();
    Ok(desired)
}

fn state(update: Option<&Update>) -> &DesiredState {
    update.unwrap().state()
}

fn pods(update: Option<&Update>) -> Vec<String> {
    state(update)
        .cidrs
        .iter()
        .map(|cidr| cidr.cidr.to_string())
        .collect()
}

/// Waits until the state is as expected; other states may come before.
async fn becomes(receiver: &mut Receiver<Option<Update>>, expected: &[&str]) {
    let seen = receiver.wait_for(|state| pods(state.as_ref()) == expected);
    assert!(
        timeout(Duration::from_secs(10), seen).await.is_ok(),
        "expected {expected:?}, have {:?}",
        pods(receiver.borrow().as_ref())
    );
}

#[tokio::test]
async fn a_changed_file_changes_the_state() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.yaml");
    fs::write(&file, node("a", "10.244.1.0/24")).unwrap();
    let mut state = follow(directory.path()).unwrap();
    assert_eq!(pods(state.borrow().as_ref()), ["10.244.1.0/24"]);

    fs::write(&file, node("a", "10.244.2.0/24")).unwrap();
    becomes(&mut state, &["10.244.2.0/24"]).await;

    fs::write(directory.path().join("b.yml"), node("b", "10.244.3.0/24")).unwrap();
    becomes(&mut state, &["10.244.2.0/24", "10.244.3.0/24"]).await;

    let renamed = directory.path().join(".draft");
    fs::write(&renamed, node("a", "10.244.4.0/24")).unwrap();
    fs::rename(&renamed, &file).unwrap();
    becomes(&mut state, &["10.244.3.0/24", "10.244.4.0/24"]).await;

    fs::remove_file(&file).unwrap();
    becomes(&mut state, &["10.244.3.0/24"]).await;
}

#[tokio::test]
async fn a_file_that_does_not_parse_keeps_what_it_said_and_the_others_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let (a, b) = (
        directory.path().join("a.yaml"),
        directory.path().join("b.yaml"),
    );
    fs::write(&a, node("a", "10.244.1.0/24")).unwrap();
    fs::write(&b, node("b", "10.244.2.0/24")).unwrap();
    let mut state = follow(directory.path()).unwrap();

    fs::write(&a, "kind: [").unwrap();
    fs::write(&b, node("b", "10.244.3.0/24")).unwrap();
    becomes(&mut state, &["10.244.1.0/24", "10.244.3.0/24"]).await;

    fs::write(&a, node("a", "10.244.9.0/24")).unwrap();
    becomes(&mut state, &["10.244.3.0/24", "10.244.9.0/24"]).await;
}

#[tokio::test]
async fn a_mounted_config_map_is_followed_through_its_links() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for (version, pods) in [("..v1", "10.244.1.0/24"), ("..v2", "10.244.2.0/24")] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("a.yaml"), node("a", pods)).unwrap();
    }
    symlink("..v1", at("..data")).unwrap();
    symlink("..data/a.yaml", at("a.yaml")).unwrap();
    let mut state = follow(directory.path()).unwrap();
    assert_eq!(pods(state.borrow().as_ref()), ["10.244.1.0/24"]);

    symlink("..v2", at("..tmp")).unwrap();
    fs::rename(at("..tmp"), at("..data")).unwrap();
    becomes(&mut state, &["10.244.2.0/24"]).await;
}

#[tokio::test]
async fn a_directory_that_is_replaced_is_followed_anew() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("manifests");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("a.yaml"), node("a", "10.244.1.0/24")).unwrap();
    let mut state = follow(&path).unwrap();

    fs::remove_dir_all(&path).unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    fs::create_dir(&path).unwrap();
    fs::write(path.join("a.yaml"), node("a", "10.244.2.0/24")).unwrap();
    becomes(&mut state, &["10.244.2.0/24"]).await;
    fs::write(path.join("a.yaml"), node("a", "10.244.3.0/24")).unwrap();
    becomes(&mut state, &["10.244.3.0/24"]).await;
}

#[tokio::test]
async fn a_file_that_says_the_same_again_is_no_change() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.yaml");
    fs::write(&file, node("a", "10.244.1.0/24")).unwrap();
    let mut state = follow(directory.path()).unwrap();
    fs::write(&file, format!("# a remark\n{}", node("a", "10.244.1.0/24"))).unwrap();
    let changed = timeout(Duration::from_millis(600), state.changed()).await;
    assert!(changed.is_err(), "{:?}", state.borrow());
}

#[tokio::test]
async fn a_bad_start_is_an_error_with_file_and_line() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a.yaml"), "kind: Node\nmetadata: [\n").unwrap();
    let error = follow(directory.path()).unwrap_err().to_string();
    assert!(error.contains("a.yaml:"), "{error}");

    let error = follow(&directory.path().join("nowhere")).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("nowhere: No such file or directory"),
        "{error}"
    );
}

#[tokio::test]
async fn files_that_are_no_manifests_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["README.md", ".a.yaml.swp", ".hidden.yaml", "a.yaml~"] {
        fs::write(directory.path().join(name), "kind: [").unwrap();
    }
    fs::create_dir(directory.path().join("sub.yaml")).unwrap();
    let receiver = follow(directory.path()).unwrap();
    assert_eq!(state(receiver.borrow().as_ref()).cidrs, Vec::new());
}
