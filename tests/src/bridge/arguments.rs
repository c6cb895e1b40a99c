//! Changes of a command line of `office-bridge run`, such as [`Bridge::default_arguments`](super::Bridge::default_arguments).

/// With more arguments.
#[must_use]
pub fn plus(arguments: &[String], more: &[&str]) -> Vec<String> {
    let more = more.iter().map(|&argument| argument.to_owned());
    arguments.iter().cloned().chain(more).collect()
}

/// With another value of a flag, wherever it stands.
///
/// # Panics
///
/// If it stands nowhere.
#[must_use]
#[track_caller]
pub fn with(arguments: &[String], flag: &str, value: &str) -> Vec<String> {
    let mut arguments = arguments.to_vec();
    let values: Vec<usize> = (1..arguments.len())
        .filter(|&index| arguments[index - 1] == flag)
        .collect();
    assert!(!values.is_empty(), "no {flag} in {arguments:?}");
    for index in values {
        value.clone_into(&mut arguments[index]);
    }
    arguments
}

/// Without the flags that begin with this, and without their values.
#[must_use]
pub fn without(arguments: &[String], prefix: &str) -> Vec<String> {
    let mut kept = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if argument.starts_with(prefix) {
            rest.next();
        } else {
            kept.push(argument.clone());
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_of_a_flag_is_replaced_and_others_stay() {
        let line = words("--uplink eth0 --dns-upstream a --no-http --dns-upstream b");
        let changed = with(&line, "--dns-upstream", "c");
        assert_eq!(
            changed,
            words("--uplink eth0 --dns-upstream c --no-http --dns-upstream c")
        );
    }

    #[test]
    #[should_panic(expected = "no --nothing in")]
    fn a_flag_that_is_not_there_fails_the_test() {
        let _ = with(&words("--uplink eth0"), "--nothing", "x");
    }

    #[test]
    fn flags_go_with_their_values() {
        let line = words("--dns-listen a --uplink eth0 --dns-allow b");
        assert_eq!(without(&line, "--dns-"), words("--uplink eth0"));
    }

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }
}
