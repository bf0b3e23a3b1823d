//! What a volume holds, carried between its file and whoever has the other end of a socket. The file is the carrier's
//! alone, and so is every bound: how far may be read, and up to where may be written.
//!
//! ```text
//! svirtd ─frames─▶ carrier ─▶ file      up: an end that is acknowledged is on the disk; where svirtd leaves without
//! svirtd ◀─frames─ carrier ◀─ file      one, what came stays
//! ```

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use super::worker::{Bounds, Buffer, Worker};
use super::{regular, within};
use crate::base::{Layer, Refusal};
use crate::labeller::apply::kernel;
use crate::labeller::places::Places;
use crate::labeller::server::Server;
use crate::privsep::contents::{DATA_MAX, Frame, HEAD, Why};
use crate::privsep::storage::{Part, Passage};
use crate::sys::scm;

/// How many carriers there are at once.
const CARRIERS_MAX: usize = 256;

/// Exit code of a carrier that has said over its socket why it ends.
struct Said;

impl From<Said> for u8 {
    fn from(_: Said) -> Self {
        1
    }
}

impl Server {
    /// Has a carrier begin; what is given back is the other end of its socket.
    pub(super) fn open_contents(
        &mut self,
        path: &str,
        part: Part,
        passage: Passage,
    ) -> Result<OwnedFd, Refusal> {
        self.carriers.retain(|carrier| carrier.ended().is_none());
        if self.carriers.len() >= CARRIERS_MAX {
            let rule = format!("what {CARRIERS_MAX} volumes hold is on its way already");
            return Err(Refusal::new(
                Layer::Policy,
                "open",
                path,
                rule,
                "try again when one of them is done",
            ));
        }
        let places = Places::of(&self.settings);
        let writes = passage == Passage::Up;
        let (directory, name) = within(&places, path, writes)?;
        let file = if writes {
            self.exclusive(&directory, name, "write", path)?.0
        } else {
            regular(&directory, name, "read", path)?;
            // What no guest would be given is given to nobody.
            places.open_readable(path)?.fd
        };
        let file = File::from(file);
        let most = self.settings.limits.volume_most();
        let io = |error: io::Error| kernel("begin to carry", path, &error, "try again in a moment");
        let (own, other) = scm::stream_pair().map_err(io)?;
        // Read and written as a file is: a carrier has the calls for those alone.
        let own = File::from(own);
        let bounds = Bounds { uid: self.settings.uids.imageprobe, longest: if writes { most } else { 0 } };
        let end = match part.length {
            0 => most,
            length => part.offset.saturating_add(length).min(most),
        };
        let worker = Worker::begin(bounds, &[own.as_fd(), file.as_fd()], |buffer| {
            let done = match passage {
                Passage::Up => fill(&own, &file, part, end, buffer),
                Passage::Down { sparse } => send(&file, &own, part, sparse, buffer),
            };
            done.map_err(|why| {
                // It may have gone.
                let _ = (&own).write_all(&Frame::Failed(why).head());
                Said
            })
        });
        self.carriers.push(worker.map_err(io)?);
        Ok(other)
    }
}

/// Sends a part of a file, holes as such where that is wanted. A file that is shorter has its end there.
fn send(file: &File, to: &File, part: Part, sparse: bool, buffer: &mut Buffer) -> Result<(), Why> {
    let (mut at, mut left) = (part.offset, if part.length == 0 { u64::MAX } else { part.length });
    while left > 0 {
        let mut most = left;
        if sparse {
            let (hole, data) = extent(file, at)?;
            if hole > 0 {
                let hole = hole.min(left);
                (&*to).write_all(&Frame::Hole(hole).head())?;
                at = at.saturating_add(hole);
                left -= hole;
                continue;
            }
            // A hole that came between the two looks is read as what it is: zeros.
            most = if data > 0 { data.min(left) } else { left };
        }
        let most = usize::try_from(most).unwrap_or(DATA_MAX).min(DATA_MAX);
        let place = buffer.get_mut(HEAD..HEAD + most).ok_or(Why::Nonsense)?;
        let length = file.read_at(place, at)?;
        if length == 0 {
            break;
        }
        let head = Frame::Data(length).head();
        buffer.get_mut(..HEAD).ok_or(Why::Nonsense)?.copy_from_slice(&head);
        (&*to).write_all(buffer.get(..HEAD + length).ok_or(Why::Nonsense)?)?;
        at = at.saturating_add(length as u64);
        left -= length as u64;
    }
    Ok((&*to).write_all(&Frame::End.head())?)
}

/// How many bytes from here on are a hole; with 0, how many are none, with 0 for those that nobody knows.
pub(super) fn extent(file: &File, at: u64) -> io::Result<(u64, u64)> {
    let end = seek(file, SeekFrom::End(0))?;
    let rest = end.saturating_sub(at);
    if rest == 0 {
        return Ok((0, 0));
    }
    match seek(file, SeekFrom::Data(at)) {
        Ok(data) if data > at => Ok((data - at, 0)),
        Ok(_) => Ok((0, seek(file, SeekFrom::Hole(at))?.saturating_sub(at))),
        // There is no data behind it.
        Err(Errno::NXIO) => Ok((rest, 0)),
        Err(error) => Err(error.into()),
    }
}

/// Writes what comes into a part of a file, and nothing from `end` on. What is meant for all of it and ends with a hole ends
/// the file there, as with libvirt; a part that is named leaves the rest alone.
fn fill(from: &File, file: &File, part: Part, end: u64, buffer: &mut Buffer) -> Result<(), Why> {
    let all = part == Part { offset: 0, length: 0 };
    let (mut at, mut hollow) = (part.offset, false);
    while let Some(frame) = next(from)? {
        let after = |length: u64| at.checked_add(length).filter(|after| *after <= end).ok_or(Why::TooMuch);
        match frame {
            Frame::Data(length) => {
                hollow = false;
                let after = after(length as u64)?;
                let data = buffer.get_mut(..length).ok_or(Why::Nonsense)?;
                if !whole(from, data)? {
                    return Ok(());
                }
                file.write_all_at(data, at)?;
                at = after;
            }
            Frame::Hole(length) => {
                hollow = true;
                let after = after(length)?;
                punch(file, at, after, buffer)?;
                at = after;
            }
            Frame::End => {
                if all && hollow {
                    file.set_len(at)?;
                }
                file.sync_all()?;
                return Ok((&*from).write_all(&Frame::End.head())?);
            }
            Frame::Failed(_) => return Err(Why::Nonsense),
        }
    }
    Ok(())
}

/// The next frame's beginning; `None` where whoever sends has left.
fn next(from: &File) -> Result<Option<Frame>, Why> {
    let mut head = [0; HEAD];
    if whole(from, &mut head)? { Frame::of(head).map(Some) } else { Ok(None) }
}

/// Fills a buffer; `false` where whoever sends has left before.
fn whole(mut from: &File, buffer: &mut [u8]) -> Result<bool, Why> {
    match from.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Has zeros stand from one place to another, as a hole where the file system has any.
fn punch(file: &File, at: u64, after: u64, buffer: &mut Buffer) -> Result<(), Why> {
    let length = seek(file, SeekFrom::End(0)).map_err(io::Error::from)?;
    let end = after.min(length);
    if at < end {
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(file, how, at, end - at) {
            Err(Errno::OPNOTSUPP) => zero(file, at, end, buffer)?,
            punched => punched.map_err(io::Error::from)?,
        }
    }
    if after > length && after > at {
        file.set_len(after)?;
    }
    Ok(())
}

/// Writes zeros from one place to another.
pub(super) fn zero(file: &File, mut at: u64, end: u64, buffer: &mut Buffer) -> io::Result<()> {
    buffer.fill(0);
    while at < end {
        let length = usize::try_from(end - at).unwrap_or(DATA_MAX).min(DATA_MAX);
        file.write_all_at(buffer.get(..length).unwrap_or_default(), at)?;
        at += length as u64;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
mod tests {
    use super::*;

    const ALL: Part = Part { offset: 0, length: 0 };
    const PART: Part = Part { offset: 10, length: 110 };

    /// A carrier, the other end of its socket, and the file.
    fn carrier(
        file: &File,
        longest: u64,
        work: fn(&File, &File, &mut Buffer) -> Result<(), Why>,
    ) -> (Worker, File) {
        let (own, other) = scm::stream_pair().unwrap();
        let own = File::from(own);
        let bounds = Bounds { uid: 65_534, longest };
        let worker = Worker::begin(bounds, &[own.as_fd(), file.as_fd()], |buffer| {
            work(&own, file, buffer).map_err(|why| {
                let _ = (&own).write_all(&Frame::Failed(why).head());
                Said
            })
        });
        (worker.unwrap(), File::from(other))
    }

    fn ended(worker: &Worker) -> Option<u8> {
        assert!(crate::sys::process::readable(worker.fd(), std::time::Duration::from_secs(60)).unwrap());
        worker.ended().unwrap()
    }

    fn frame(from: &File) -> Frame {
        next(from).unwrap().unwrap()
    }

    /// Everything that comes, and how much of it as holes.
    fn all(from: &File) -> (Vec<u8>, u64) {
        let (mut bytes, mut holes) = (Vec::new(), 0);
        loop {
            match frame(from) {
                Frame::Data(length) => {
                    let mut data = vec![0; length];
                    (&*from).read_exact(&mut data).unwrap();
                    bytes.extend(data);
                }
                Frame::Hole(length) => {
                    holes += length;
                    bytes.resize(bytes.len() + usize::try_from(length).unwrap(), 0);
                }
                Frame::End => return (bytes, holes),
                Frame::Failed(why) => panic!("{why}"),
            }
        }
    }

    fn give(to: &File, frame: Frame, bytes: &[u8]) {
        (&*to).write_all(&frame.head()).unwrap();
        (&*to).write_all(bytes).unwrap();
    }

    #[test]
    fn a_part_comes_out_and_holes_stand_for_zeros() {
        let file = tempfile::tempfile().unwrap();
        let mut content = vec![0_u8; 3 << 20];
        content[1 << 20..(1 << 20) + 5].copy_from_slice(b"hello");
        file.set_len(3 << 20).unwrap();
        file.write_all_at(b"hello", 1 << 20).unwrap();
        fn part(to: &File, file: &File, buffer: &mut Buffer, sparse: bool) -> Result<(), Why> {
            for (offset, length) in
                [(0, 0), (7, 1 << 20), (1 << 20, 5), (2 << 20, 0), (2 << 20, 9 << 20), (9 << 20, 1)]
            {
                send(file, to, Part { offset, length }, sparse, buffer)?;
            }
            Ok(())
        }
        for sparse in [false, true] {
            let (worker, other) = match sparse {
                false => carrier(&file, 0, |to, file, buffer| part(to, file, buffer, false)),
                true => carrier(&file, 0, |to, file, buffer| part(to, file, buffer, true)),
            };
            for range in [
                0..3 << 20,
                7..(1 << 20) + 7,
                1 << 20..(1 << 20) + 5,
                2 << 20..3 << 20,
                2 << 20..3 << 20,
                0..0,
            ] {
                let (bytes, holes) = all(&other);
                assert!(bytes == content[range.clone()], "{range:?} {sparse}");
                assert!(sparse || holes == 0);
            }
            assert_eq!(ended(&worker), Some(0));
        }
    }

    #[test]
    fn nothing_is_written_behind_the_end_and_what_came_before_stays() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 100], 0).unwrap();
        let (worker, other) = carrier(&file, 4096, |from, file, buffer| fill(from, file, PART, 120, buffer));
        give(&other, Frame::Data(3), b"abc");
        give(&other, Frame::Hole(20), b"");
        give(&other, Frame::Data(1), b"d");
        give(&other, Frame::Hole(86), b"");
        give(&other, Frame::Data(1), b"e");
        assert_eq!(frame(&other), Frame::Failed(Why::TooMuch));
        assert_eq!(ended(&worker), Some(1));
        let mut bytes = vec![0; 200];
        assert_eq!(file.read_at(&mut bytes, 0).unwrap(), 120);
        assert_eq!((&bytes[9..14], bytes[32], &bytes[33..35]), (&b"\x07abc\0"[..], 0, &b"d\0"[..]));
        assert!(bytes[34..120].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_hole_at_the_end_of_all_of_it_ends_the_file_and_no_other() {
        type Fills = fn(&File, &File, &mut Buffer) -> Result<(), Why>;
        let all: Fills = |from, file, buffer| fill(from, file, ALL, 120, buffer);
        let part: Fills = |from, file, buffer| fill(from, file, PART, 120, buffer);
        for (fills, given, length) in [
            (all, &[Frame::Data(3), Frame::Hole(20)][..], 23),
            (all, &[Frame::Hole(20), Frame::Data(3)], 100),
            (all, &[Frame::Data(3)], 100),
            (part, &[Frame::Data(3), Frame::Hole(20)], 100),
        ] {
            let file = tempfile::tempfile().unwrap();
            file.set_len(100).unwrap();
            let (worker, other) = carrier(&file, 4096, fills);
            for frame in given {
                give(&other, *frame, if matches!(frame, Frame::Data(_)) { b"abc" } else { b"" });
            }
            give(&other, Frame::End, b"");
            assert_eq!((frame(&other), ended(&worker)), (Frame::End, Some(0)));
            assert_eq!(file.metadata().unwrap().len(), length, "{given:?}");
        }
    }

    #[test]
    fn an_end_is_acknowledged_and_who_leaves_without_one_ends_it() {
        let file = tempfile::tempfile().unwrap();
        let (worker, other) = carrier(&file, 4096, |from, file, buffer| fill(from, file, ALL, 4096, buffer));
        give(&other, Frame::Data(3), b"abc");
        give(&other, Frame::End, b"");
        assert_eq!((frame(&other), ended(&worker)), (Frame::End, Some(0)));
        // Between two frames, and within one.
        for left in [&Frame::Data(3).head()[..], b"d\0", b""] {
            let (worker, other) =
                carrier(&file, 4096, |from, file, buffer| fill(from, file, ALL, 4096, buffer));
            give(&other, Frame::Data(3), b"xyz");
            (&other).write_all(left).unwrap();
            drop(other);
            assert_eq!(ended(&worker), Some(0));
            let mut bytes = [0; 3];
            file.read_exact_at(&mut bytes, 0).unwrap();
            assert_eq!(&bytes, b"xyz");
        }
        // One that reads no more ends who sends.
        file.set_len(64 << 20).unwrap();
        let (worker, other) = carrier(&file, 0, |to, file, buffer| {
            send(file, to, Part { offset: 0, length: 0 }, false, buffer)
        });
        assert!(matches!(frame(&other), Frame::Data(_)));
        drop(other);
        assert_ne!(ended(&worker), Some(0));
    }

    #[test]
    fn no_room_and_nonsense_are_told() {
        let full = File::options().read(true).write(true).open("/dev/full").unwrap();
        let (worker, other) = carrier(&full, 4096, |from, file, buffer| fill(from, file, ALL, 4096, buffer));
        give(&other, Frame::Data(3), b"abc");
        assert_eq!(frame(&other), Frame::Failed(Why::Kernel(libc::ENOSPC)));
        assert_eq!(ended(&worker), Some(1));
        let file = tempfile::tempfile().unwrap();
        for head in [[b'x'; HEAD], Frame::Failed(Why::TooMuch).head(), Frame::Data(DATA_MAX + 1).head()] {
            let (worker, other) =
                carrier(&file, 4096, |from, file, buffer| fill(from, file, ALL, 4096, buffer));
            (&other).write_all(&head).unwrap();
            assert_eq!((frame(&other), ended(&worker)), (Frame::Failed(Why::Nonsense), Some(1)));
        }
    }

    #[test]
    fn a_carrier_has_no_other_calls_and_makes_no_longer_file() {
        let file = tempfile::tempfile().unwrap();
        // A file is opened: the filter ends it.
        let (worker, _other) = carrier(&file, 4096, |_, _, _| File::open("/").map(drop).map_err(Why::from));
        assert_eq!(ended(&worker), None);
        // A descriptor that is not its own is written.
        let (worker, _other) = carrier(&file, 4096, |_, _, _| {
            rustix::io::write(io::stderr(), b"x").map(drop).map_err(|error| Why::from(io::Error::from(error)))
        });
        assert_eq!(ended(&worker), None);
        let (worker, _other) = carrier(&file, 4096, |_, file, _| Ok(file.write_all_at(b"x", 4096)?));
        assert_eq!(ended(&worker), None);
        assert_eq!(file.metadata().unwrap().len(), 0);
        // Killed from outside, it leaves the socket closed.
        let (worker, other) = carrier(&file, 4096, |from, file, buffer| fill(from, file, ALL, 4096, buffer));
        drop(worker);
        assert_eq!((&other).read(&mut [0]).unwrap(), 0);
    }
}
