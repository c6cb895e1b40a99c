//! The candidates for NAT ports, rearranged as little as possible: a socket that opens on the node must not move
//! tens of thousands of entries.

use std::collections::VecDeque;

use bridge_common::abi::NatPort;

/// `wanted`, with its candidates in the order that differs least from `applied`, of which the first `count` entries
/// hold candidates. Both are indexed by port number. What stands behind them stays as it is wanted.
#[must_use]
pub fn rearranged(applied: &[NatPort], count: usize, wanted: &[NatPort]) -> Vec<NatPort> {
    let listed = &wanted[..wanted.len().min(NatPort::PRIVILEGED_AT as usize)];
    let mut free = vec![false; wanted.len()];
    for port in listed {
        if let Some(free) = free.get_mut(usize::from(port.candidate)) {
            *free = port.candidate != 0;
        }
    }
    let is_free = |port: u16| free.get(usize::from(port)) == Some(&true);
    let mut candidates: Vec<Option<u16>> = applied
        .iter()
        .take(count)
        .map(|port| Some(port.candidate).filter(|&candidate| is_free(candidate)))
        .collect();
    let mut known = vec![false; wanted.len()];
    for slot in &mut candidates {
        let Some(candidate) = *slot else { continue };
        // A write that was interrupted may leave the same twice.
        if std::mem::replace(&mut known[usize::from(candidate)], true) {
            *slot = None;
        }
    }
    let mut added: VecDeque<u16> = (0..=u16::MAX)
        .zip(&known)
        .filter(|&(port, known)| !known && is_free(port))
        .map(|(port, _)| port)
        .collect();
    let mut compact = Vec::with_capacity(wanted.len());
    for index in 0.. {
        if index >= candidates.len() && added.is_empty() {
            break;
        }
        let next = candidates
            .get(index)
            .copied()
            .flatten()
            .or_else(|| added.pop_front())
            .or_else(|| last_after(&mut candidates, index));
        match next {
            Some(candidate) => compact.push(candidate),
            None => break,
        }
    }
    wanted
        .iter()
        .enumerate()
        .map(|(index, port)| NatPort {
            candidate: compact
                .get(index)
                .copied()
                .unwrap_or_else(|| listed_apart(index, *port)),
            ..*port
        })
        .collect()
}

/// What an entry behind the candidates holds.
fn listed_apart(index: usize, port: NatPort) -> u16 {
    if index < NatPort::PRIVILEGED_AT as usize {
        0
    } else {
        port.candidate
    }
}

/// Takes the last candidate behind `index`.
fn last_after(candidates: &mut Vec<Option<u16>>, index: usize) -> Option<u16> {
    while candidates.len() > index + 1 {
        if let Some(candidate) = candidates.pop().flatten() {
            return Some(candidate);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(reserved: impl Fn(u16) -> bool) -> (Vec<NatPort>, usize) {
        let count = (NatPort::FIRST_USER..=u16::MAX)
            .filter(|&port| !reserved(port))
            .count();
        (NatPort::table(&reserved).collect(), count)
    }

    /// How many entries have changed; checks that every free port is a candidate, once.
    fn changed(before: &(Vec<NatPort>, usize), after: &(Vec<NatPort>, usize)) -> usize {
        let result = rearranged(&before.0, before.1, &after.0);
        let candidates = |ports: &[NatPort]| {
            let mut candidates: Vec<u16> =
                ports[..after.1].iter().map(|port| port.candidate).collect();
            candidates.sort_unstable();
            candidates
        };
        assert_eq!(candidates(&result), candidates(&after.0));
        let behind = after.1..NatPort::PRIVILEGED_AT as usize;
        assert!(result[behind].iter().all(|port| port.candidate == 0));
        let privileged = NatPort::PRIVILEGED_AT as usize..;
        assert_eq!(result[privileged.clone()], after.0[privileged]);
        let reserved =
            |ports: &[NatPort]| ports.iter().map(|port| port.reserved).collect::<Vec<_>>();
        assert_eq!(reserved(&result), reserved(&after.0));
        result.iter().zip(&before.0).filter(|(a, b)| a != b).count()
    }

    #[test]
    fn a_socket_that_opens_or_closes_moves_few_candidates() {
        let quiet = ports(|port| port < 1024);
        let busy = ports(|port| port < 1024 || port == 3306 || port == 64_000);
        assert_eq!(changed(&quiet, &quiet), 0);
        assert!(changed(&quiet, &busy) <= 6);
        assert!(changed(&busy, &quiet) <= 6);
        let moved = ports(|port| port < 1024 || port == 5432 || port == 65_535);
        assert!(changed(&busy, &moved) <= 8);
    }

    #[test]
    fn any_table_becomes_the_wanted_one() {
        let nothing = (vec![NatPort::default(); 65_536], 0);
        let all = ports(|_| false);
        let none = ports(|_| true);
        let some = ports(|port| port % 3 == 0);
        for before in [&nothing, &all, &none, &some] {
            for after in [&all, &none, &some] {
                changed(before, after);
            }
        }
        // Half written: the same candidate everywhere.
        let broken = (
            vec![
                NatPort {
                    candidate: 7,
                    ..NatPort::default()
                };
                65_536
            ],
            65_536,
        );
        changed(&broken, &some);
    }
}
