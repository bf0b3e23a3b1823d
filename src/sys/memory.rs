//! Giving back the memory that only starting up has needed.

use std::ffi::CStr;

/// Gives free heap back, and the pages of program and libraries: those that are needed again come from the kernel's
/// cache of their files, a few at a time.
///
/// Best called once a daemon has started: parsing configuration, facts and filters takes more code and heap than
/// serving does.
pub fn trim() {
    // SAFETY: neither changes anything that a program can see but how much memory it holds.
    unsafe {
        libc::malloc_trim(0);
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
    /// Kibibytes of files that are mapped and in memory.
    fn of_files() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("RssFile:"));
        line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
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
