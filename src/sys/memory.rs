//! What memory a daemon keeps: giving back what it no longer needs.

use std::ffi::CStr;

/// Heaps that threads share.
const ARENAS: libc::c_int = 4;
/// Bytes that may stay free at the end of each of them, and that a piece of memory of its own has at least.
const FREE_MAX: libc::c_int = 1 << 20;

/// Bounds what the heap keeps of what it has had, for good. Best called before there is a second thread.
///
/// Otherwise each thread may get a heap of its own, up to eight for each processor, and each of these keeps up to twice
/// as much at its end as the largest piece ever freed: 64 MiB after a packet of 32 MiB. No trimming takes that away.
pub fn bound() {
    // SAFETY: these change nothing but how much memory is asked of the kernel at once, and given back. An allocator that
    // does not know one of them refuses it, and works as before.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
        libc::mallopt(libc::M_TRIM_THRESHOLD, FREE_MAX);
        libc::mallopt(libc::M_MMAP_THRESHOLD, FREE_MAX);
    }
}

/// Gives free heap back: whole pages of it, wherever they lie.
pub fn give_back() {
    // SAFETY: changes nothing that a program can see but how much memory it holds.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Gives free heap back, and the pages of program and libraries: those that are needed again come from the kernel's
/// cache of their files, a few at a time.
///
/// Best called once a daemon has started: parsing configuration, facts and filters takes more code and heap than
/// serving does.
pub fn trim() {
    give_back();
    // SAFETY: changes nothing that a program can see but how much memory it holds.
    unsafe {
        libc::dl_iterate_phdr(Some(object), std::ptr::null_mut());
    }
}

/// Gives back the pages of one loaded object that are never written.
///
/// # Safety
///
/// `info` is what `dl_iterate_phdr` passes.
unsafe extern "C" fn object(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _data: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: valid for this call, by the contract of this function.
    let (info, name) = unsafe { (&*info, name(&*info)) };
    // The kernel's own object is no file's.
    if !name.starts_with(b"linux-") && !info.dlpi_phdr.is_null() {
        // SAFETY: the loader's table of so many headers of an object that is loaded.
        let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
        headers.iter().for_each(|header| segment(info.dlpi_addr, header));
    }
    0
}

/// # Safety
///
/// `info` is what `dl_iterate_phdr` passes.
unsafe fn name(info: &libc::dl_phdr_info) -> &[u8] {
    if info.dlpi_name.is_null() {
        return &[];
    }
    // SAFETY: the loader's name of an object ends with a zero.
    unsafe { CStr::from_ptr(info.dlpi_name) }.to_bytes()
}

/// Gives back a segment's pages, if it is one that is never written: what was relocated lies in one that was.
fn segment(base: libc::Elf64_Addr, header: &libc::Elf64_Phdr) {
    const PAGE: u64 = 4096;
    if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
        return;
    }
    let start = (base + header.p_vaddr).next_multiple_of(PAGE);
    let end = (base + header.p_vaddr + header.p_filesz) / PAGE * PAGE;
    let Ok(length) = usize::try_from(end.saturating_sub(start)) else { return };
    // SAFETY: the range lies in a private mapping of a file that is never written to: each page comes back from the
    // file as it was. Where the kernel refuses, the pages stay.
    unsafe {
        libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read as _;
    use std::sync::{Mutex, PoisonError};

    /// Kibibytes of files that are mapped and in memory.
    fn of_files() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("RssFile:"));
        line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
    }

    /// Bytes of heaps and stacks that are in memory. Takes nothing of a heap itself: that would lie at its end.
    fn of_its_own() -> usize {
        let mut bytes = [0; 4096];
        let read = File::open("/proc/self/status").and_then(|mut status| status.read(&mut bytes));
        let status = str::from_utf8(&bytes[..read.unwrap_or(0)]).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok()).map_or(0, |kib: usize| kib << 10)
    }

    /// What one test takes is not to be what another one has given back.
    static ALONE: Mutex<()> = Mutex::new(());

    /// Some small pieces, of so many bytes together.
    fn pieces(bytes: usize) -> Vec<Vec<u8>> {
        (0..bytes / 1000).map(|_| vec![1; 1000]).collect()
    }

    #[test]
    fn free_pages_before_a_piece_that_stays_are_given_back() {
        const MUCH: usize = 128 << 20;
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut held = pieces(MUCH);
        let last = held.pop();
        drop(held);
        let before = of_its_own();
        super::give_back();
        let after = of_its_own();
        assert!(after + MUCH / 2 < before, "{before} bytes before, {after} bytes after");
        assert_eq!(last.map(|last| last[0]), Some(1));
    }

    #[test]
    fn the_end_of_a_thread_s_heap_is_given_back_whatever_was_freed_before() {
        const MUCH: usize = 64 << 20;
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        super::bound();
        let freed = || {
            // After this one the allocator would keep twice as much, if it were left to itself.
            drop(std::hint::black_box(vec![1_u8; MUCH - (1 << 20)]));
            let held = pieces(MUCH);
            let most = of_its_own();
            drop(held);
            super::give_back();
            (most, of_its_own())
        };
        let (most, after) = std::thread::spawn(freed).join().unwrap_or_default();
        assert!(after + MUCH / 2 < most, "{most} bytes, and {after} bytes after");
    }

    #[test]
    fn what_is_given_back_comes_again() {
        let words: Vec<String> = (0..10_000).map(|number| number.to_string()).collect();
        let before = of_files();
        super::trim();
        let after = of_files();
        assert!(after < before, "{before} kB before, {after} kB after");
        assert_eq!(words.iter().map(String::len).sum::<usize>(), 38_890);
        assert!(format!("{:?}", std::env::args()).len() > 2, "formats, and calls into the library");
    }
}
