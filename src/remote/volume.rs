//! Contents of volumes, as streams: read and written through a descriptor that the labeller has opened.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use super::call::Call;
use super::error::Failure;
use super::transfer::{Piece, Sink, Source, Transfer, Way};
use crate::access::Object;
use crate::rpc::{Header, STREAM_CHUNK};
use crate::storage::{StorageError, zero};

/// VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM, and the same for uploads.
const SPARSE: u32 = 1;

/// What a call names: pool, volume and key; from where on; how much, 0 for everything; flags.
type Arguments<'a> = ((&'a str, &'a str, &'a str), u64, u64, u32);

/// Sends what a volume holds.
pub(super) fn download(call: &Call<'_>, header: Header) -> Result<Transfer, Failure> {
    transfer(call, header, false)
}

/// Writes into a volume that no domain uses.
pub(super) fn upload(call: &Call<'_>, header: Header) -> Result<Transfer, Failure> {
    transfer(call, header, true)
}

fn transfer(call: &Call<'_>, header: Header, up: bool) -> Result<Transfer, Failure> {
    let ((pool, name, _), offset, length, flags): Arguments<'_> = call.arguments()?;
    call.permit_on(Object::StorageVol, 0, || StorageError::NoVolume("name", name.into()).into())?;
    call.only_flags(flags, SPARSE)?;
    let (pools, pool, name) = (call.shared_pools(), pool.to_owned(), name.to_owned());
    let most = match call.settings().limits.volume {
        0 => i64::MAX as u64,
        most => most,
    };
    Ok(Transfer::new(header, up, move || {
        let volume = pools.volume(&pools.by_name(&pool)?, &name)?;
        let (file, size) = pools.open_volume(&volume, up)?;
        let way = if up {
            let end = if length == 0 { most } else { offset.saturating_add(length).min(most) };
            Way::Up(Box::new(Filling { file, at: offset, end }))
        } else {
            let rest = size.saturating_sub(offset);
            let left = if length == 0 { rest } else { length.min(rest) };
            Way::Down(Box::new(Reading { file, at: offset, left, sparse: flags & SPARSE != 0 }))
        };
        Ok((Vec::new(), way))
    }))
}

/// A volume that is read.
struct Reading {
    file: File,
    at: u64,
    left: u64,
    /// Whether holes are told and not sent.
    sparse: bool,
}

impl Reading {
    /// How many bytes from here on are a hole; with 0, how many are none.
    fn extent(&self) -> io::Result<(u64, u64)> {
        let ends = |at: Result<u64, Errno>| match at {
            Ok(at) => Ok(Some(at.saturating_sub(self.at))),
            // There is nothing of the kind behind it.
            Err(Errno::NXIO) => Ok(None),
            Err(error) => Err(io::Error::from(error)),
        };
        match ends(seek(&self.file, SeekFrom::Data(self.at)))? {
            Some(0) => {
                let data = ends(seek(&self.file, SeekFrom::Hole(self.at)))?;
                Ok((0, data.unwrap_or(self.left).min(self.left)))
            }
            hole => Ok((hole.unwrap_or(self.left).min(self.left), 0)),
        }
    }
}

impl Source for Reading {
    fn next(&mut self) -> io::Result<Piece> {
        if self.left == 0 {
            return Ok(Piece::End);
        }
        let mut most = self.left;
        if self.sparse {
            let (hole, data) = self.extent()?;
            if hole > 0 {
                self.at += hole;
                self.left -= hole;
                return Ok(Piece::Hole(hole));
            }
            // A hole that came between the two looks is read as what it is: zeros.
            most = if data > 0 { data } else { self.left };
        }
        let mut bytes = vec![0; usize::try_from(most).unwrap_or(STREAM_CHUNK).min(STREAM_CHUNK)];
        let length = self.file.read_at(&mut bytes, self.at)?;
        bytes.truncate(length);
        // A volume that got shorter meanwhile has its end here.
        if length == 0 {
            self.left = 0;
            return Ok(Piece::End);
        }
        self.at += length as u64;
        self.left = self.left.saturating_sub(length as u64);
        Ok(Piece::Data(bytes))
    }
}

/// A volume that is written, up to a place.
struct Filling {
    file: File,
    at: u64,
    end: u64,
}

impl Filling {
    /// Where it stands after so many more bytes.
    fn after(&self, length: u64) -> io::Result<u64> {
        let after = self.at.checked_add(length).filter(|after| *after <= self.end);
        after.ok_or_else(|| {
            let text = format!("more came than goes into the volume: it ends at byte {} of it", self.end);
            io::Error::new(io::ErrorKind::StorageFull, text)
        })
    }
}

impl Filling {
    /// Has zeros stand up to there, as a hole where the file system has any.
    fn punch(&self, end: u64) -> io::Result<()> {
        let length = end.saturating_sub(self.at);
        if length == 0 {
            return Ok(());
        }
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.file, how, self.at, length) {
            Err(Errno::OPNOTSUPP) => zero(&self.file, self.at..end),
            punched => Ok(punched?),
        }
    }
}

impl Sink for Filling {
    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        let after = self.after(bytes.len() as u64)?;
        self.file.write_all_at(bytes, self.at)?;
        self.at = after;
        Ok(())
    }

    fn hole(&mut self, length: u64) -> io::Result<()> {
        let after = self.after(length)?;
        if length > 0 {
            self.punch(after.min(self.file.metadata()?.len()))?;
        }
        if self.file.metadata()?.len() < after {
            self.file.set_len(after)?;
        }
        self.at = after;
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.file.sync_all()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn file() -> File {
        tempfile::tempfile().unwrap()
    }

    fn pieces(mut reading: Reading) -> (Vec<u8>, u64) {
        let (mut bytes, mut holes) = (Vec::new(), 0);
        loop {
            match reading.next().unwrap() {
                Piece::Data(data) => {
                    assert!(!data.is_empty() && data.len() <= STREAM_CHUNK);
                    bytes.extend(data);
                }
                Piece::Hole(length) => {
                    holes += length;
                    bytes.resize(bytes.len() + usize::try_from(length).unwrap(), 0);
                }
                Piece::End => return (bytes, holes),
            }
        }
    }

    #[test]
    fn holes_are_told_and_stand_for_zeros() {
        let file = file();
        let mut content = vec![0_u8; 3 << 20];
        content[1 << 20..(1 << 20) + 5].copy_from_slice(b"hello");
        file.set_len(3 << 20).unwrap();
        file.write_all_at(b"hello", 1 << 20).unwrap();
        for sparse in [false, true] {
            for (at, left) in [(0, 3 << 20), (7, 1 << 20), (1 << 20, 5), (2 << 20, 1 << 20)] {
                let reading = Reading { file: file.try_clone().unwrap(), at, left, sparse };
                let (bytes, holes) = pieces(reading);
                let from = usize::try_from(at).unwrap();
                assert_eq!(bytes, content[from..from + usize::try_from(left).unwrap()]);
                assert!(sparse || holes == 0);
            }
        }
    }

    #[test]
    fn a_volume_that_gets_shorter_has_an_end() {
        let file = file();
        file.write_all_at(&[7; 100], 0).unwrap();
        let reading = Reading { file: file.try_clone().unwrap(), at: 0, left: 1000, sparse: false };
        assert_eq!(pieces(reading).0, [7; 100]);
    }

    #[test]
    fn nothing_is_written_behind_its_end() {
        let file = file();
        file.write_all_at(&[7; 100], 0).unwrap();
        let mut filling = Filling { file: file.try_clone().unwrap(), at: 10, end: 120 };
        filling.data(b"abc").unwrap();
        filling.hole(20).unwrap();
        filling.data(b"d").unwrap();
        assert!(filling.data(&[1; 87]).is_err() && filling.hole(u64::MAX).is_err());
        filling.hole(86).unwrap();
        filling.finish().unwrap();
        let mut bytes = vec![0; 200];
        assert_eq!(file.read_at(&mut bytes, 0).unwrap(), 120);
        assert_eq!((&bytes[9..14], bytes[32], &bytes[33..35]), (&b"\x07abc\0"[..], 0, &b"d\0"[..]));
        assert!(bytes[34..120].iter().all(|byte| *byte == 0));
    }
}
