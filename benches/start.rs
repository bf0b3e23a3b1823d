//! Start to guest running and end, with every layer on, beside the same arguments run bare. Root only.
//!
//! `cargo bench --bench start` runs both alternately in one process, so that a noisy machine hits both alike, and
//! prints medians and their ratio. Bare means: the same program, arguments and descriptors, no svirt process, no
//! confinement, the same QMP handshake and `cont`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/bare.rs"]
mod bare;
mod common;

use std::time::{Duration, Instant};

use bare::Bare;
use common::Host;
use svirt::driver::Launch;

/// Pairs of starts, bare and confined.
const PAIRS: usize = 21;
/// Starts at once in the second part.
const AT_ONCE: usize = 20;
/// How often that is done: who gets the processor first makes single rounds differ by a third.
const ROUNDS: usize = 9;

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn one_by_one(host: &Host) {
    let (mut bare, mut confined, mut stops) = (Vec::new(), Vec::new(), Vec::new());
    // The first start prepares the minimal root.
    let first = host.start("one", false);
    host.stop(first.plan.domain.uuid, first.started.qemu_pid);
    for _ in 0..PAIRS {
        let begin = Instant::now();
        let running = Bare::start(&first.plan);
        bare.push(begin.elapsed());
        running.stop();
        let begin = Instant::now();
        let launch = host.start("one", false);
        confined.push(begin.elapsed());
        stops.push(host.stop(launch.plan.domain.uuid, launch.started.qemu_pid));
    }
    let (bare, confined) = (median(&mut bare), median(&mut confined));
    println!("start to guest running, median of {PAIRS} pairs:");
    println!("  bare argv   {:8.2} ms", milliseconds(bare));
    println!("  confined    {:8.2} ms", milliseconds(confined));
    println!(
        "  ratio       {:8.2}     (+{:.2} ms; promise: at most 1.3 and +10 ms)",
        confined.as_secs_f64() / bare.as_secs_f64(),
        milliseconds(confined.saturating_sub(bare))
    );
    println!(
        "stop: said {:.2} ms after the process is gone (median; promise: 10 ms)",
        milliseconds(median(&mut stops))
    );
}

fn at_once(host: &Host) {
    let plans: Vec<Launch> = (0..AT_ONCE).map(|i| host.start(&format!("many{i}"), false)).collect();
    for launch in &plans {
        host.stop(launch.plan.domain.uuid, launch.started.qemu_pid);
    }
    let (mut bare, mut confined) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        let running: Vec<Bare> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                plans.iter().map(|launch| scope.spawn(|| Bare::start(&launch.plan))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        bare.push(begin.elapsed());
        running.into_iter().for_each(Bare::stop);
        let begin = Instant::now();
        let launches: Vec<Launch> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..AT_ONCE).map(|i| scope.spawn(move || host.start(&format!("many{i}"), false))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        confined.push(begin.elapsed());
        for launch in launches {
            host.stop(launch.plan.domain.uuid, launch.started.qemu_pid);
        }
    }
    let (bare, confined) = (median(&mut bare), median(&mut confined));
    println!("{AT_ONCE} starts at once, median of {ROUNDS}:");
    println!("  bare argv   {:8.1} ms", milliseconds(bare));
    println!("  confined    {:8.1} ms", milliseconds(confined));
    println!("  ratio       {:8.2}     (promise: at most 1.3)", confined.as_secs_f64() / bare.as_secs_f64());
}

fn main() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let host = Host::new();
    one_by_one(&host);
    at_once(&host);
}
