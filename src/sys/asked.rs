//! A program that is only asked something: started with a pipe in and a pipe out and nothing else, as a user of its
//! own where the caller is root, without capabilities, network, writable files and time to spare.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::pipe::PipeFlags;

use super::landlock::{self, Allow};
use super::namespace::{self, Namespaces};
use super::process::{self, Child};
use super::seccomp::{self, Instruction};
use super::{cred, rlimit};

/// Seconds of CPU time.
const CPU_SECONDS: u64 = 20;
/// Descriptors.
const FILES: u64 = 256;
/// Threads of the program's own uid.
const THREADS: u64 = 64;
/// What the child ends with where a step before exec failed.
pub const UNPREPARED: i32 = 126;

/// What is started, and what it is left.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// The program's absolute path.
    pub program: &'a CStr,
    /// Its arguments, its name first.
    pub argv: &'a [&'a CStr],
    /// Its uid and gid, where the caller is root.
    pub uid: u32,
    /// Files that it may read and execute, and those that it may write; what is not there is passed over.
    pub reach: &'a [(&'a Path, Allow)],
    /// Its filter.
    pub filter: &'a [Instruction],
}

/// A started program: what it is held by, its standard input and its standard output.
#[derive(Debug)]
pub struct Answering {
    /// The process.
    pub child: Child,
    /// Where questions go.
    pub input: OwnedFd,
    /// Where answers come from.
    pub output: OwnedFd,
}

/// Starts it. Every layer that the kernel has is in force before the program's first instruction.
pub fn start(asked: &Asked<'_>) -> io::Result<Answering> {
    let (their_input, input) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let (output, their_output) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let null: OwnedFd = std::fs::File::options().write(true).open("/dev/null")?.into();
    let reach: Vec<(&Path, Allow)> = asked.reach.iter().filter(|(path, _)| path.exists()).copied().collect();
    let ruleset = landlock::prepare(landlock::effective_abi(u32::MAX), &reach)?;
    let environment = [c"LC_ALL=C"];
    let parent = process::own_pid();
    let child = process::fork(|| {
        let placed = [
            (their_input.as_fd().as_raw_fd(), 0),
            (their_output.as_fd().as_raw_fd(), 1),
            (null.as_fd().as_raw_fd(), 2),
        ];
        let confined = process::place_fds(&placed, &mut [])
            .and_then(|()| give_up(asked.uid))
            .and_then(|()| process::die_with_parent(true))
            .and_then(|()| ruleset.restrict_self())
            .and_then(|_| seccomp::load(asked.filter));
        if confined.is_err() || !process::parent_is(parent) {
            return UNPREPARED;
        }
        let _failed = process::exec(asked.program, asked.argv, &environment);
        UNPREPARED
    })?;
    Ok(Answering { child, input, output })
}

fn give_up(uid: u32) -> io::Result<()> {
    process::new_session()?;
    process::reset_signals()?;
    process::set_umask(0o077);
    rustix::process::chdir("/")?;
    let limits = [
        (rlimit::Kind::Core, 0),
        (rlimit::Kind::Fsize, 0),
        (rlimit::Kind::Memlock, 0),
        (rlimit::Kind::Msgqueue, 0),
        (rlimit::Kind::Nofile, FILES),
        (rlimit::Kind::Cpu, CPU_SECONDS),
    ];
    for (kind, value) in limits {
        rlimit::set(kind, Some(rlimit::hard(kind).map_or(value, |hard| hard.min(value))))?;
    }
    if cred::effective_uid() == 0 {
        // In a container there may be no right to; the filter refuses every socket all the same.
        let _without =
            namespace::unshare(Namespaces { ipc: true, net: true, uts: true, ..Namespaces::default() });
        rlimit::set(rlimit::Kind::Nproc, Some(THREADS))?;
        cred::drop_bounding()?;
        cred::set_ids(uid, uid, &[])?;
    }
    cred::clear_capabilities()?;
    cred::set_no_new_privs()
}
