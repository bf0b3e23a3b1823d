//! Whether KVM works: the device opens, speaks the one API version, makes a machine, and the machine runs code.
//!
//! The last is no matter of course: a KVM without hardware below it may make machines and virtual CPUs, and then fail
//! at the first instruction that it must emulate and cannot.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::{pidfd, process};

/// `KVM_GET_API_VERSION` of linux/kvm.h: `_IO(0xAE, 0x00)`.
const KVM_GET_API_VERSION: libc::c_ulong = 0xae00;
/// `KVM_CREATE_VM` of linux/kvm.h: `_IO(0xAE, 0x01)`.
const KVM_CREATE_VM: libc::c_ulong = 0xae01;
/// The version that linux/kvm.h says will never change.
const API_VERSION: libc::c_int = 12;
/// How long the few instructions may take, in milliseconds; they take a tenth of one.
const RUN_PATIENCE: u16 = 10_000;

/// Makes a machine, runs a few instructions in it and throws it away; an error says what does not work.
pub fn check() -> io::Result<()> {
    let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm")?;
    // SAFETY: the descriptor is open for the whole call, and this request reads and writes no memory of ours.
    let version = unsafe { libc::ioctl(kvm.as_raw_fd(), KVM_GET_API_VERSION, 0) };
    if version < 0 {
        return Err(io::Error::last_os_error());
    }
    if version != API_VERSION {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("/dev/kvm speaks version {version}, not 12"),
        ));
    }
    // A machine that never stops must not take this process with it.
    let child = process::fork(|| i32::from(trial::run(kvm.as_raw_fd(), &trial::CODE).is_err()))?;
    if !pidfd::wait_ended(&child.pidfd, RUN_PATIENCE)? {
        child.end()?;
        return Err(io::Error::new(io::ErrorKind::TimedOut, "a machine runs and never stops"));
    }
    match pidfd::reap(&child.pidfd) {
        Some(pidfd::Exit::Code(0)) => Ok(()),
        _ => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "it makes no machine that runs 64-bit code (no hardware virtualisation below it?)",
        )),
    }
}

/// A machine with 16 KiB of memory that clears a vector register in 64-bit mode and halts.
mod trial {
    use super::{AsRawFd, FromRawFd, KVM_CREATE_VM, OwnedFd, io};

    // linux/kvm.h, for x86-64.
    const KVM_GET_VCPU_MMAP_SIZE: libc::c_ulong = 0xae04;
    const KVM_GET_SUPPORTED_CPUID: libc::c_ulong = 0xc008_ae05;
    const KVM_CREATE_VCPU: libc::c_ulong = 0xae41;
    const KVM_SET_USER_MEMORY_REGION: libc::c_ulong = 0x4020_ae46;
    const KVM_RUN: libc::c_ulong = 0xae80;
    const KVM_SET_REGS: libc::c_ulong = 0x4090_ae82;
    const KVM_GET_SREGS: libc::c_ulong = 0x8138_ae83;
    const KVM_SET_SREGS: libc::c_ulong = 0x4138_ae84;
    const KVM_SET_CPUID2: libc::c_ulong = 0x4008_ae90;
    const KVM_EXIT_HLT: u32 = 5;
    /// Where `exit_reason` stands in `struct kvm_run`.
    const EXIT_REASON: usize = 8;
    /// How often a run that a signal interrupts is taken up again.
    const TRIES: usize = 16;

    /// The memory's guest address and size in bytes.
    const BASE: u64 = 0x10_0000;
    const SIZE: usize = 0x4000;
    /// `pxor xmm0, xmm0; hlt`
    pub(super) const CODE: [u8; 5] = [0x66, 0x0f, 0xef, 0xc0, 0xf4];

    #[repr(C)]
    struct MemoryRegion {
        slot: u32,
        flags: u32,
        guest_address: u64,
        size: u64,
        address: u64,
    }

    #[repr(C)]
    struct Cpuid {
        count: u32,
        padding: u32,
        entries: [[u32; 10]; 256],
    }

    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Segment {
        base: u64,
        limit: u32,
        selector: u16,
        kind: u8,
        present: u8,
        privilege: u8,
        big: u8,
        code_or_data: u8,
        long: u8,
        granular: u8,
        available: u8,
        unusable: u8,
        padding: u8,
    }

    #[repr(C)]
    #[derive(Default)]
    struct SpecialRegisters {
        /// cs, ds, es, fs, gs, ss, tr, ldt.
        segments: [Segment; 8],
        /// gdt and idt: base, limit with padding.
        tables: [[u64; 2]; 2],
        cr0: u64,
        cr2: u64,
        cr3: u64,
        cr4: u64,
        cr8: u64,
        efer: u64,
        apic_base: u64,
        interrupts: [u64; 4],
    }

    /// Memory of this process, given back when dropped.
    struct Mapping {
        address: *mut libc::c_void,
        size: usize,
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            // SAFETY: the mapping was made by `map` with this address and size, and nothing borrows from it.
            unsafe { libc::munmap(self.address, self.size) };
        }
    }

    fn map(size: usize, flags: libc::c_int, fd: libc::c_int) -> io::Result<Mapping> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses touches no memory that is in use.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), size, access, flags, fd, 0) };
        if address == libc::MAP_FAILED {
            Err(io::Error::last_os_error())
        } else {
            Ok(Mapping { address, size })
        }
    }

    fn number(fd: libc::c_int, request: libc::c_ulong) -> io::Result<libc::c_int> {
        // SAFETY: these requests take no argument but a plain 0, and read and write no memory of ours.
        let result = unsafe { libc::ioctl(fd, request, 0) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
    }

    fn descriptor(fd: libc::c_int, request: libc::c_ulong) -> io::Result<OwnedFd> {
        let made = number(fd, request)?;
        // SAFETY: the kernel has just returned this new descriptor, and nobody else knows its number.
        Ok(unsafe { OwnedFd::from_raw_fd(made) })
    }

    /// `T` is the structure that the request's number carries the size of.
    fn exchange<T>(fd: libc::c_int, request: libc::c_ulong, value: &mut T) -> io::Result<()> {
        // SAFETY: `value` is a whole structure of the request's own type, valid for reading and writing.
        let result = unsafe { libc::ioctl(fd, request, std::ptr::from_mut(value)) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    pub(super) fn run(kvm: libc::c_int, code: &[u8; 5]) -> io::Result<()> {
        let machine = descriptor(kvm, KVM_CREATE_VM)?;
        let memory = map(SIZE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)?;
        fill(&memory, code);
        let mut region = MemoryRegion {
            slot: 0,
            flags: 0,
            guest_address: BASE,
            size: SIZE as u64,
            address: memory.address as u64,
        };
        exchange(machine.as_raw_fd(), KVM_SET_USER_MEMORY_REGION, &mut region)?;
        let cpu = descriptor(machine.as_raw_fd(), KVM_CREATE_VCPU)?;
        let mut cpuid = Cpuid { count: 256, padding: 0, entries: [[0; 10]; 256] };
        exchange(kvm, KVM_GET_SUPPORTED_CPUID, &mut cpuid)?;
        exchange(cpu.as_raw_fd(), KVM_SET_CPUID2, &mut cpuid)?;
        enter_long_mode(cpu.as_raw_fd())?;
        let size = usize::try_from(number(kvm, KVM_GET_VCPU_MMAP_SIZE)?).unwrap_or(0).max(4096);
        let state = map(size, libc::MAP_SHARED, cpu.as_raw_fd())?;
        for _ in 0..TRIES {
            match number(cpu.as_raw_fd(), KVM_RUN) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(_) => break,
            }
        }
        // SAFETY: the mapping has at least 4096 bytes, so the aligned word at offset 8 lies in it; the virtual CPU does
        // not run, so nobody writes to it.
        let reason = unsafe { state.address.cast::<u8>().add(EXIT_REASON).cast::<u32>().read() };
        if reason == KVM_EXIT_HLT { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
    }

    /// The code, and page tables that map the first 2 MiB onto themselves.
    fn fill(memory: &Mapping, code: &[u8; 5]) {
        let tables = [(0x1000_usize, (BASE + 0x2000) | 3), (0x2000, (BASE + 0x3000) | 3), (0x3000, 0x83)];
        let start = memory.address.cast::<u8>();
        // SAFETY: code and entries lie within the SIZE bytes of the mapping, which nothing else uses yet; the entries
        // stand at multiples of 4096.
        unsafe {
            std::ptr::copy_nonoverlapping(code.as_ptr(), start, code.len());
            for (at, entry) in tables {
                start.add(at).cast::<u64>().write(entry);
            }
        }
    }

    fn enter_long_mode(cpu: libc::c_int) -> io::Result<()> {
        let mut special = SpecialRegisters::default();
        exchange(cpu, KVM_GET_SREGS, &mut special)?;
        let flat =
            Segment { limit: u32::MAX, present: 1, code_or_data: 1, granular: 1, ..Segment::default() };
        for (at, segment) in special.segments.iter_mut().take(6).enumerate() {
            *segment = if at == 0 {
                Segment { selector: 8, kind: 11, long: 1, ..flat }
            } else {
                Segment { selector: 16, kind: 3, big: 1, ..flat }
            };
        }
        // Protected, paged, with a coprocessor; PAE and SSE; long mode enabled and active.
        (special.cr0, special.cr3, special.cr4, special.efer) = (0x8000_0033, BASE + 0x1000, 0x620, 0x500);
        exchange(cpu, KVM_SET_SREGS, &mut special)?;
        // rip is the 17th and rflags the 18th; bit 1 of rflags is always set.
        let mut general = [0_u64; 18];
        let [.., rip, rflags] = &mut general;
        (*rip, *rflags) = (BASE, 2);
        exchange(cpu, KVM_SET_REGS, &mut general)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        /// The requests carry the sizes of their structures; a wrong layout would be a wrong size.
        #[test]
        fn structures_are_as_large_as_their_requests_say() {
            let said = |request: libc::c_ulong| (request >> 16 & 0x3fff) as usize;
            assert_eq!(size_of::<MemoryRegion>(), said(KVM_SET_USER_MEMORY_REGION));
            assert_eq!(size_of::<SpecialRegisters>(), said(KVM_GET_SREGS));
            assert_eq!(size_of::<SpecialRegisters>(), said(KVM_SET_SREGS));
            assert_eq!(size_of::<[u64; 18]>(), said(KVM_SET_REGS));
            assert_eq!(size_of::<Segment>(), 24);
        }

        /// `cmovb rax, rcx; hlt` is emulated everywhere and an instruction of 64-bit mode alone, so that a refusal of
        /// [`CODE`] on this machine is KVM's and no mistake of the registers or tables above.
        #[test]
        #[allow(clippy::unwrap_used)]
        fn a_machine_halts_in_64_bit_mode() {
            let Ok(kvm) = std::fs::File::options().read(true).write(true).open("/dev/kvm") else {
                println!("skipped: needs /dev/kvm");
                return;
            };
            let machine = descriptor(kvm.as_raw_fd(), KVM_CREATE_VM);
            if machine.and_then(|made| descriptor(made.as_raw_fd(), KVM_CREATE_VCPU)).is_err() {
                println!("skipped: needs a KVM that makes machines");
                return;
            }
            run(kvm.as_raw_fd(), &[0x48, 0x0f, 0x42, 0xc1, 0xf4]).unwrap();
            assert!(run(kvm.as_raw_fd(), &[0x0f, 0x0b, 0xf4, 0xf4, 0xf4]).is_err(), "ud2 is no halt");
        }
    }
}

#[cfg(test)]
mod tests {
    /// Whatever the host has, the answer is an answer: no machine without a device.
    #[test]
    fn no_device_is_an_error() {
        if !std::path::Path::new("/dev/kvm").exists() {
            assert!(super::check().is_err());
        }
    }
}
