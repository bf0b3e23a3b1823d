//! System call filters: named rules in, a BPF program out, and an interpreter that judges any program. Pure.
//!
//! Fragments (`labels/seccomp/*.toml`) are parsed by [`fragment`] into a [`Filter`], which says for each system
//! call what becomes of it; [`compile()`] turns it into classic BPF, [`Filter::eval`] is what that program must
//! agree with, and [`interpret`] and [`judge()`] read any program, also one that was dumped from a foreign process.
//! [`own`] holds the ceiling and the filters of svirt's own processes. Nothing here loads a filter: that is `sys::seccomp`.
#![forbid(unsafe_code)]

mod bpf;
pub mod compile;
mod constants;
pub mod fragment;
pub mod interpret;
pub mod judge;
mod model;
pub mod own;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests;

pub use compile::{CompileError, compile};
pub use fragment::{Fragment, FragmentError};
pub use judge::{Judgement, judge, judge_stack};
pub use model::{Action, CeilingError, Condition, Filter, Test, Word};

/// `AUDIT_ARCH_X86_64` of linux/audit.h.
pub const ARCH_X86_64: u32 = 0xc000_003e;
/// `AUDIT_ARCH_I386` of linux/audit.h.
pub const ARCH_I386: u32 = 0x4000_0003;
/// `__X32_SYSCALL_BIT` of asm/unistd.h.
pub const X32_BIT: u32 = 0x4000_0000;
/// `BPF_MAXINSNS` of linux/bpf_common.h: the most instructions that the kernel takes.
pub const INSTRUCTIONS_MAX: usize = 4096;
