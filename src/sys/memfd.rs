//! Anonymous files: what one process tells another without a name, sealed where it is not to change later.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, memfd_create};

/// An anonymous file with these bytes, at offset 0, that nobody can write, shrink, grow or unseal.
pub fn sealed(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    file.write_all(bytes)?;
    file.rewind()?;
    fcntl_add_seals(&file, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    Ok(file.into())
}

/// An anonymous file, twice: to be read and written, and to be written only.
pub fn one_way(name: &str) -> io::Result<(OwnedFd, OwnedFd)> {
    let file = memfd_create(name, MemfdFlags::CLOEXEC)?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let writing = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    Ok((file, writing))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn one_end_only_writes() {
        let (file, end) = one_way("t").unwrap();
        let (mut file, mut end) = (File::from(file), File::from(end));
        end.write_all(b"abc").unwrap();
        assert!(end.read(&mut [0]).is_err());
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "abc");
    }

    #[test]
    fn it_can_be_read_and_not_written() {
        let mut file = File::from(sealed("t", b"abc").unwrap());
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "abc");
        assert!(file.write_all(b"x").is_err());
        assert!(file.set_len(0).is_err());
    }
}
