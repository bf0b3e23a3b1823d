//! A hundred domains at once: start, run paused, stop, and nothing left. Root only.
//!
//! `cargo bench --bench many` prints how long each part takes and what the supervisors and the labeller weigh.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::time::Instant;

use common::Host;
use svirt::driver::{Labeller, Launch};

/// How many domains.
const DOMAINS: usize = 100;

/// Proportional set size of a process in kB (`/proc/PID/smaps_rollup`).
fn proportional(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find(|line| line.starts_with("Pss:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn main() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let host = Host::new();
    let begin = Instant::now();
    let launches: Vec<Launch> = std::thread::scope(|scope| {
        let host = &host;
        let start = |half: usize| {
            move || (half..DOMAINS).step_by(4).map(|i| host.start(&format!("d{i}"), true)).collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..4).map(|half| scope.spawn(start(half))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    println!("{DOMAINS} domains started in {:.2} s, four clients at a time", begin.elapsed().as_secs_f64());
    let mut labeller = Labeller::connect(&host.settings).unwrap();
    let survey = labeller.survey().unwrap();
    assert_eq!(survey.domains.len(), DOMAINS);
    let mut weights: Vec<u64> =
        survey.domains.iter().map(|domain| proportional(domain.supervisor_pid)).collect();
    weights.sort_unstable();
    println!("a supervisor: {} kB proportional set size (median; promise: 1,536 kB)", weights[DOMAINS / 2]);
    println!("the labeller: {} kB", proportional(host.labeller_pid()));
    let begin = Instant::now();
    for launch in launches {
        labeller.kill(launch.plan.domain.uuid).unwrap();
    }
    println!("stopped one after another in {:.2} s", begin.elapsed().as_secs_f64());
    assert!(labeller.survey().unwrap().domains.is_empty());
}
