//! The device program of a version 2 cgroup: which device nodes its processes may open.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A character device that may be opened for reading, and perhaps for writing. Nobody may make nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRule {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Whether it may be opened for writing too.
    pub write: bool,
}

/// `struct bpf_insn`: opcode, registers (source << 4 | destination), offset, immediate.
#[repr(C)]
#[derive(Clone, Copy)]
struct Insn(u8, u8, i16, i32);

const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb7;
const AND32: u8 = 0x54;
const JUMP_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// Keeps programs above and below in force: all must allow.
const ALLOW_MULTI: u32 = 2;

/// `BPF_DEVCG_DEV_CHAR` in the low half, accesses (mknod 1, read 2, write 4) in the high half of `access_type`.
const CHAR: i32 = 2;

/// The attributes of PROG_LOAD that are used; the kernel takes the rest as zero.
#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
}

/// The attributes of PROG_ATTACH.
#[repr(C)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

/// Lets processes of `cgroup` open only these devices.
pub fn restrict_devices(cgroup: BorrowedFd<'_>, rules: &[DeviceRule]) -> io::Result<()> {
    let program = program(rules);
    let load = Load {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).map_err(io::Error::other)?,
        insns: program.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
    };
    let loaded = bpf(PROG_LOAD, &load)?;
    // SAFETY: PROG_LOAD succeeded, so `loaded` is a new descriptor that nobody else owns.
    let loaded = unsafe { OwnedFd::from_raw_fd(loaded) };
    let number = |fd: i32| u32::try_from(fd).map_err(io::Error::other);
    let attach = Attach {
        target_fd: number(cgroup.as_raw_fd())?,
        attach_bpf_fd: number(loaded.as_raw_fd())?,
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: ALLOW_MULTI,
    };
    bpf(PROG_ATTACH, &attach).map(drop)
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_int> {
    let attributes = std::ptr::from_ref(attributes);
    // SAFETY: `attributes` is a whole `repr(C)` prefix of `union bpf_attr` of the given size; what it points at
    // (instructions, licence) outlives the call. The kernel verifies the program.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { i32::try_from(done).map_err(io::Error::other) }
}

/// r1 is `struct bpf_cgroup_dev_ctx`: access_type, major, minor. Returns 1 to allow.
fn program(rules: &[DeviceRule]) -> Vec<Insn> {
    let mut program =
        vec![Insn(LOAD_WORD, 0x12, 0, 0), Insn(LOAD_WORD, 0x13, 4, 0), Insn(LOAD_WORD, 0x14, 8, 0)];
    for rule in rules {
        // What is left after the allowed accesses are masked out must be the type alone.
        let allowed = if rule.write { 6 << 16 } else { 2 << 16 };
        program.extend([
            Insn(JUMP_NOT_EQUAL, 3, 6, rule.major.cast_signed()),
            Insn(JUMP_NOT_EQUAL, 4, 5, rule.minor.cast_signed()),
            Insn(0xbf, 0x25, 0, 0),
            Insn(AND32, 5, 0, !allowed),
            Insn(JUMP_NOT_EQUAL, 5, 2, CHAR),
            Insn(MOVE, 0, 0, 1),
            Insn(EXIT, 0, 0, 0),
        ]);
    }
    program.extend([Insn(MOVE, 0, 0, 0), Insn(EXIT, 0, 0, 0)]);
    program
}
