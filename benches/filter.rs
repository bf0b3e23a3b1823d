//! What a filter costs: size and path against libseccomp's, time to load, time of a call under it.
//!
//! Promises (docs/spec.md): loaded in at most 80 us; a hot call within 3 ns of a constant filter.
//! Run by `cargo bench --bench filter`; each figure is taken in forked children, since a filter is for ever.
#![allow(clippy::unwrap_used, missing_docs, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::hint::black_box;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Instant;

use libseccomp::{ScmpAction, ScmpFilterContext, ScmpSyscall};
use svirt::filter::interpret::longest_path;
use svirt::filter::{Action, Filter, judge};
use svirt::privsep::confinement::{BpfInsn, SeccompProgram};
use svirt::profile::{Part, Selection, compose, program};
use svirt::sys::seccomp::{Instruction, load};
use svirt::sys::{cred, process, scm};

const CALLS: u32 = 200_000;

fn raw(program: &SeccompProgram) -> Vec<Instruction> {
    program.0.iter().map(|i| (i.0, i.1, i.2, i.3)).collect()
}

/// Nanoseconds that `measure` tells in a child of its own; the median of `rounds`.
fn median(rounds: usize, measure: impl Fn() -> u64) -> u64 {
    let mut all: Vec<u64> = (0..rounds)
        .map(|_| {
            let (ours, theirs) = scm::stream_pair().unwrap();
            let child = process::fork(|| {
                let told = measure().to_ne_bytes();
                i32::from(scm::send(theirs.as_fd(), &told, &[]).is_err())
            })
            .unwrap();
            let mut told = [0; 8];
            scm::recv(ours.as_fd(), &mut told).unwrap();
            child.end().unwrap();
            u64::from_ne_bytes(told)
        })
        .collect();
    all.sort_unstable();
    all.get(rounds / 2).copied().unwrap_or(0)
}

fn load_time(filter: &[Instruction]) -> u64 {
    median(101, || {
        cred::set_no_new_privs().unwrap();
        let start = Instant::now();
        load(filter).unwrap();
        start.elapsed().as_nanos() as u64
    })
}

/// Picoseconds of one getppid under each of two filters: the least of rounds that take turns, because whatever else
/// the machine does only adds.
fn call_times(one: &[Instruction], other: &[Instruction]) -> (u64, u64) {
    let time = |filter: &[Instruction]| {
        median(1, || {
            cred::set_no_new_privs().unwrap();
            load(filter).unwrap();
            let start = Instant::now();
            for _ in 0..CALLS {
                black_box(rustix::process::getppid());
            }
            start.elapsed().as_nanos() as u64 * 1000 / u64::from(CALLS)
        })
    };
    (0..41).fold((u64::MAX, u64::MAX), |least, _| (least.0.min(time(one)), least.1.min(time(other))))
}

/// The same calls by libseccomp, as a linear chain or as a tree; arguments left out, which favours it.
fn by_libseccomp(filter: &Filter, optimise: u32) -> SeccompProgram {
    let mut context = ScmpFilterContext::new(ScmpAction::Errno(1)).unwrap();
    context.set_ctl_optimize(optimise).unwrap();
    for call in syscalls::Sysno::iter() {
        let action = match filter.eval(svirt::filter::ARCH_X86_64, call.id() as u32, &[0; 6]) {
            Action::Allow => ScmpAction::Allow,
            Action::Launch => ScmpAction::Notify,
            Action::Kill => ScmpAction::KillProcess,
            Action::Errno(1) => continue,
            Action::Errno(number) => ScmpAction::Errno(i32::from(number)),
        };
        context.add_rule(action, ScmpSyscall::from(call.id())).unwrap();
    }
    let mut file = tempfile::tempfile().unwrap();
    context.export_bpf(file.as_fd()).unwrap();
    file.flush().unwrap();
    let bytes = std::fs::read(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    let insns = bytes.chunks_exact(8).map(|c| {
        let [a, b, jt, jf, k @ ..] = <[u8; 8]>::try_from(c).unwrap();
        BpfInsn(u16::from_ne_bytes([a, b]), jt, jf, u32::from_ne_bytes(k))
    });
    SeccompProgram(insns.collect())
}

fn report(name: &str, program: &SeccompProgram) {
    let load = load_time(&raw(program));
    let path = longest_path(program).unwrap();
    println!(
        "{name:<34} {:>5} instructions, longest path {path:>3}, loaded in {:>6.1} us",
        program.0.len(),
        load as f64 / 1e3
    );
}

fn main() {
    let typical = [Part::Base, Part::Launcher, Part::Socket, Part::DiskFile];
    for accel in [Part::AccelTcg, Part::AccelKvm] {
        let selection: Selection = typical.into_iter().chain([accel]).collect();
        let start = Instant::now();
        let ours = program(&selection).unwrap();
        let first = start.elapsed();
        let start = Instant::now();
        assert_eq!(program(&selection).unwrap(), ours);
        println!(
            "{accel:?}: composed and compiled in {:.2} ms, again in {:.1} us",
            first.as_secs_f64() * 1e3,
            start.elapsed().as_secs_f64() * 1e6
        );
        let filter = compose(&selection).unwrap();
        let (always, launch) = filter.counts();
        println!("{accel:?}: {always} calls always (some by argument), {launch} at launch only");
        report("  svirt", &ours);
        report("  libseccomp, chain, no arguments", &by_libseccomp(&filter, 1));
        report("  libseccomp, tree, no arguments", &by_libseccomp(&filter, 2));
        assert!(!judge(&ours).unwrap().allowed.is_empty());
        let constant = [(6u16, 0u8, 0u8, 0x7fff_0000u32)];
        let (base, under) = call_times(&constant, &raw(&ours));
        println!(
            "  getppid: {:.1} ns under a constant filter, {:.1} ns under ours",
            base as f64 / 1e3,
            under as f64 / 1e3
        );
    }
}
