//! Which CPUs threads run on, and which NUMA nodes memory is taken from.

use std::io;

use rustix::thread::{CpuSet, Pid, sched_setaffinity};

/// How a process takes memory from NUMA nodes (set_mempolicy(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// `MPOL_PREFERRED`
    Preferred,
    /// `MPOL_BIND`
    Bind,
    /// `MPOL_INTERLEAVE`
    Interleave,
}

impl Policy {
    fn mode(self) -> libc::c_int {
        match self {
            Self::Preferred => libc::MPOL_PREFERRED,
            Self::Bind => libc::MPOL_BIND,
            Self::Interleave => libc::MPOL_INTERLEAVE,
        }
    }
}

/// Moves one thread of any process to these CPUs, or to all; the kernel leaves out those that its cgroup has not.
pub fn set_affinity(thread: i32, cpus: Option<&[u32]>) -> io::Result<()> {
    let thread = Pid::from_raw(thread).ok_or(io::ErrorKind::InvalidInput)?;
    let mut set = CpuSet::new();
    let mut add = |cpu: usize| {
        if cpu < CpuSet::MAX_CPU {
            set.set(cpu);
        }
    };
    match cpus {
        Some(cpus) => cpus.iter().for_each(|cpu| add(*cpu as usize)),
        None => (0..CpuSet::MAX_CPU).for_each(&mut add),
    }
    Ok(sched_setaffinity(Some(thread), &set)?)
}

/// Has this process, and what it executes, take memory from these nodes. It allocates nothing.
pub fn set_memory_nodes(policy: Policy, nodes: &[u32]) -> io::Result<()> {
    const WORDS: usize = 16;
    let mut mask = [0_u64; WORDS];
    for node in nodes {
        let word = mask.get_mut((node / 64) as usize).ok_or(io::ErrorKind::InvalidInput)?;
        *word |= 1 << (node % 64);
    }
    // One more than there are bits: the kernel takes one away.
    let bits = WORDS * 64 + 1;
    // SAFETY: the kernel reads at most `bits - 1` bits of `mask`, which outlives the call; it keeps a copy.
    let done = unsafe { libc::syscall(libc::SYS_set_mempolicy, policy.mode(), mask.as_ptr(), bits) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rustix::thread::{gettid, sched_getaffinity};

    #[test]
    fn a_thread_is_moved_and_moved_back() {
        std::thread::spawn(|| {
            let own = gettid();
            let before = sched_getaffinity(None).unwrap();
            let first = (0..CpuSet::MAX_CPU).find(|cpu| before.is_set(*cpu)).unwrap();
            set_affinity(own.as_raw_nonzero().get(), Some(&[u32::try_from(first).unwrap()])).unwrap();
            let now = sched_getaffinity(None).unwrap();
            assert!(now.is_set(first) && now.count() == 1);
            set_affinity(own.as_raw_nonzero().get(), None).unwrap();
            assert!(sched_getaffinity(None).unwrap().count() >= before.count());
            assert!(set_affinity(own.as_raw_nonzero().get(), Some(&[1023])).is_err(), "no such CPU");
            assert!(set_affinity(0, None).is_err());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn memory_comes_from_nodes_that_are_there() {
        std::thread::spawn(|| {
            set_memory_nodes(Policy::Bind, &[0]).unwrap();
            assert!(set_memory_nodes(Policy::Bind, &[1000]).is_err());
            assert!(set_memory_nodes(Policy::Bind, &[5000]).is_err());
        })
        .join()
        .unwrap();
    }
}
