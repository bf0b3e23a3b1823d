//! What a volume holds, as it comes and goes over the socket whose other end a process of the labeller's has. That process
//! alone has the file.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;

use crate::privsep::contents::{DATA_MAX, Frame, HEAD};

/// One end of it.
#[derive(Debug)]
pub struct Contents(UnixStream);

/// What comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Bytes; no more than one frame has.
    Data(Vec<u8>),
    /// So many zeros.
    Hole(u64),
    /// Nothing more.
    End,
}

impl Contents {
    pub(super) fn new(socket: UnixStream) -> Self {
        Self(socket)
    }

    /// What comes next.
    pub fn take(&mut self) -> io::Result<Taken> {
        match self.frame()? {
            Frame::Data(length) => {
                let mut bytes = vec![0; length];
                self.0.read_exact(&mut bytes).map_err(left)?;
                Ok(Taken::Data(bytes))
            }
            Frame::End => Ok(Taken::End),
            Frame::Failed(why) => Err(why.into()),
            Frame::Hole(length) => Ok(Taken::Hole(length)),
        }
    }

    /// Gives bytes.
    pub fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(DATA_MAX) {
            self.give(&Frame::Data(piece.len()).head())?;
            self.give(piece)?;
        }
        Ok(())
    }

    /// Gives so many zeros.
    pub fn hole(&mut self, length: u64) -> io::Result<()> {
        self.give(&Frame::Hole(length).head())
    }

    /// Says that everything was given, and waits until it is on the disk.
    pub fn finish(&mut self) -> io::Result<()> {
        self.give(&Frame::End.head())?;
        match self.frame()? {
            Frame::End => Ok(()),
            Frame::Failed(why) => Err(why.into()),
            Frame::Data(_) | Frame::Hole(_) => Err(ErrorKind::InvalidData.into()),
        }
    }

    fn frame(&mut self) -> io::Result<Frame> {
        let mut head = [0; HEAD];
        self.0.read_exact(&mut head).map_err(left)?;
        Ok(Frame::of(head)?)
    }

    /// Whoever takes no more has said why.
    fn give(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Err(error) = self.0.write_all(bytes) else { return Ok(()) };
        match self.frame() {
            Ok(Frame::Failed(why)) => Err(why.into()),
            Err(gone) if gone.kind() == ErrorKind::Other => Err(gone),
            _ => Err(left(error)),
        }
    }
}

/// The other end went without a word.
fn left(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => {
            io::Error::other("the process that has the volume's file was killed: try again")
        }
        _ => error,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::privsep::contents::Why;

    fn pair() -> (Contents, UnixStream) {
        let (one, other) = UnixStream::pair().unwrap();
        (Contents(one), other)
    }

    #[test]
    fn what_comes_is_told_and_so_is_who_leaves_without_a_word() {
        let (mut contents, mut other) = pair();
        for bytes in [&Frame::Data(3).head()[..], b"abc", &Frame::Hole(7).head(), &Frame::End.head()] {
            other.write_all(bytes).unwrap();
        }
        let expected = [Taken::Data(b"abc".to_vec()), Taken::Hole(7), Taken::End];
        assert_eq!(expected.each_ref().map(|_| contents.take().unwrap()), expected);
        other.write_all(&Frame::Data(3).head()).unwrap();
        drop(other);
        assert!(contents.take().unwrap_err().to_string().contains("was killed"));

        let (mut contents, mut other) = pair();
        other.write_all(&Frame::Failed(Why::Kernel(libc::EIO)).head()).unwrap();
        assert_eq!(contents.take().unwrap_err().raw_os_error(), Some(libc::EIO));
        other.write_all(&[0; HEAD]).unwrap();
        assert!(contents.take().is_err());
    }

    #[test]
    fn who_takes_no_more_says_why() {
        let (mut contents, mut other) = pair();
        other.write_all(&Frame::Failed(Why::Kernel(libc::ENOSPC)).head()).unwrap();
        drop(other);
        let error = std::iter::repeat_with(|| contents.data(&[0; 4096])).find_map(Result::err);
        assert_eq!(error.unwrap().kind(), ErrorKind::StorageFull);

        let (mut contents, other) = pair();
        drop(other);
        let error = std::iter::repeat_with(|| contents.hole(1)).find_map(Result::err).unwrap();
        assert!(error.to_string().contains("was killed"), "{error}");
        assert!(contents.finish().unwrap_err().to_string().contains("was killed"));
    }
}
