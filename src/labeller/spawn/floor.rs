//! The filter that the labeller puts under every plan's own: what nobody whom it starts ever needs.
//!
//! Filters stack and the strictest answer wins, so a plan cannot take any of this back. Constant for each call
//! but `clone`, so the kernel answers the rest from its bitmap without running it.

use crate::sys::seccomp::Instruction;

const LOAD_WORD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const JUMP_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

const ALLOW: u32 = 0x7fff_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
const ERRNO: u32 = 0x0005_0000;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;

/// Numbers from here on are x32 calls on x86_64, and none elsewhere.
const FOREIGN: u32 = 0x4000_0000;

/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const CLONE_NAMESPACES: u32 = 0x7e02_0000;

/// Refused with EPERM: changing mounts and namespaces, other processes' memory, the kernel's own state, keys.
const REFUSED: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// The program.
pub(super) fn program() -> Vec<Instruction> {
    let eperm = ERRNO | libc::EPERM.unsigned_abs();
    let enosys = ERRNO | libc::ENOSYS.unsigned_abs();
    let mut refused: Vec<u32> = REFUSED.iter().filter_map(|number| u32::try_from(*number).ok()).collect();
    refused.sort_unstable();
    let number = |call: libc::c_long| u32::try_from(call).unwrap_or(u32::MAX);
    let mut program = vec![
        (LOAD_WORD, 0, 0, ARCH),
        (JUMP_EQUAL, 1, 0, AUDIT_ARCH),
        (RETURN, 0, 0, KILL_PROCESS),
        (LOAD_WORD, 0, 0, NUMBER),
        (JUMP_AT_LEAST, 0, 1, FOREIGN),
        (RETURN, 0, 0, enosys),
        // The flags of clone3 lie in memory where no filter sees them; libraries fall back to clone.
        (JUMP_EQUAL, 0, 1, number(libc::SYS_clone3)),
        (RETURN, 0, 0, enosys),
        (JUMP_EQUAL, 0, 4, number(libc::SYS_clone)),
        (LOAD_WORD, 0, 0, FIRST_ARGUMENT),
        (JUMP_ANY_BIT, 0, 1, CLONE_NAMESPACES),
        (RETURN, 0, 0, eperm),
        (RETURN, 0, 0, ALLOW),
    ];
    search(&refused, eperm, &mut program);
    program
}

/// Emits a binary search; each half is short enough for an 8-bit jump.
fn search(numbers: &[u32], answer: u32, program: &mut Vec<Instruction>) {
    let (left, right) = numbers.split_at(numbers.len() / 2);
    if let (Some(middle), true) = (right.first(), numbers.len() > 3) {
        let mut below = Vec::new();
        search(left, answer, &mut below);
        program.push((JUMP_AT_LEAST, u8::try_from(below.len()).unwrap_or(u8::MAX), 0, *middle));
        program.extend(below);
        search(right, answer, program);
        return;
    }
    for number in numbers {
        program.extend([(JUMP_EQUAL, 0, 1, *number), (RETURN, 0, 0, answer)]);
    }
    program.push((RETURN, 0, 0, ALLOW));
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
mod tests {
    use super::*;

    /// Runs the program as linux/filter.h says.
    fn run(program: &[Instruction], arch: u32, number: u32, argument: u32) -> u32 {
        let mut accumulator = 0;
        let mut at = 0;
        loop {
            let (code, jt, jf, k) = program[at];
            at += 1;
            let jump = |taken: bool| usize::from(if taken { jt } else { jf });
            match code {
                LOAD_WORD => {
                    accumulator = match k {
                        NUMBER => number,
                        ARCH => arch,
                        FIRST_ARGUMENT => argument,
                        _ => panic!("load of {k}"),
                    }
                }
                JUMP_EQUAL => at += jump(accumulator == k),
                JUMP_AT_LEAST => at += jump(accumulator >= k),
                JUMP_ANY_BIT => at += jump(accumulator & k != 0),
                RETURN => return k,
                _ => panic!("code {code}"),
            }
        }
    }

    #[test]
    fn exactly_the_listed_calls_are_refused() {
        let program = program();
        assert!(program.len() < 255, "a jump could be too long: {}", program.len());
        for number in 0..600u32 {
            let wanted = if REFUSED.contains(&i64::from(number)) {
                ERRNO | 1
            } else if i64::from(number) == libc::SYS_clone3 {
                ERRNO | 38
            } else {
                ALLOW
            };
            assert_eq!(run(&program, AUDIT_ARCH, number, 0), wanted, "call {number}");
        }
    }

    #[test]
    fn namespaces_and_foreign_calls_are_refused() {
        let program = program();
        let clone = u32::try_from(libc::SYS_clone).unwrap();
        assert_eq!(run(&program, AUDIT_ARCH, clone, 0x003d_0f00), ALLOW, "a thread");
        for bit in [0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000]
        {
            assert_eq!(run(&program, AUDIT_ARCH, clone, bit), ERRNO | 1, "{bit:x}");
        }
        assert_eq!(run(&program, AUDIT_ARCH, FOREIGN | 1, 0), ERRNO | 38);
        assert_eq!(run(&program, 0x4000_0003, 1, 0), KILL_PROCESS);
    }
}
