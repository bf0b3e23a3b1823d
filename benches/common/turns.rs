//! What is compared takes turns in small rounds: whatever the machine does meanwhile, idle or busy, it does to all of it.
#![allow(unreachable_pub, reason = "each benchmark compiles it for itself")]

use std::time::Duration;

use super::wire::Times;

/// Rounds of a comparison, after one that only warms up.
const ROUNDS: usize = 20;

/// One of those who are compared.
pub struct Side<'a> {
    /// Does one call.
    pub call: Box<dyn FnMut() + 'a>,
    /// Nanoseconds of CPU that its server has had.
    pub cpu: Box<dyn Fn() -> u64 + 'a>,
}

/// What was measured of one.
pub struct Measured {
    /// Median microseconds of a call.
    pub p50: f64,
    /// Microseconds of CPU of the server for each call.
    pub cpu: f64,
}

/// Measures so many calls of each.
pub fn in_turns<const N: usize>(count: usize, mut sides: [Side<'_>; N]) -> [Measured; N] {
    let each = (count / ROUNDS).max(1);
    let mut found = [(); N].map(|()| (Vec::<Duration>::new(), 0));
    for round in 0..=ROUNDS {
        for turn in 0..N {
            // Who comes first, and so behind whom each comes, changes.
            let at = if round % 2 == 0 { turn } else { N - 1 - turn };
            let Side { call, cpu } = &mut sides[at];
            let before = cpu();
            let times = Times::of(each, call).all();
            if round > 0 {
                found[at].1 += cpu() - before;
                found[at].0.extend(times);
            }
        }
    }
    found.map(|(times, cpu)| {
        let calls = times.len() as f64;
        Measured { p50: Times::from(times).percentile(50), cpu: cpu as f64 / 1e3 / calls }
    })
}
