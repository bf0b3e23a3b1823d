//! How what a volume holds goes over a socket: between the front end, which has no file, and the labeller's process that
//! has nothing else.
//!
//! Each frame begins with one byte and a number of eight, the highest first. Down: data and holes, then an end. Up: the
//! same, and an end comes back once everything is on the disk. Instead of any of it, the process with the file says why
//! not; whoever finds the socket closed without either was left alone.

use std::io;

/// Bytes that a frame begins with.
pub const HEAD: usize = 9;
/// The most bytes of one frame's data.
pub const DATA_MAX: usize = 240 << 10;

/// Codes of [`Why`] that are no error number of the kernel's.
const TOO_MUCH: u64 = 1 << 32;
const NONSENSE: u64 = TOO_MUCH + 1;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// So many bytes follow; at most [`DATA_MAX`].
    Data(usize),
    /// Everything came, or is on the disk.
    End,
    /// It did not go on.
    Failed(Why),
    /// So many zeros that do not follow.
    Hole(u64),
}

/// Why what a volume holds was not moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// The kernel refused.
    #[error("{}", io::Error::from_raw_os_error(*.0))]
    Kernel(i32),
    /// One side does not keep to the frames.
    #[error("it was told nonsense: use svirt programs of one version")]
    Nonsense,
    /// It would go past the place that it may be written up to.
    #[error("more came than goes into the volume, by the length that was asked for or by limits.volume")]
    TooMuch,
}

impl Frame {
    /// Its first bytes.
    #[must_use]
    pub fn head(self) -> [u8; HEAD] {
        let (kind, number) = match self {
            Self::Data(length) => (b'd', length as u64),
            Self::End => (b'e', 0),
            Self::Failed(Why::Kernel(code)) => (b'f', u64::from(code.unsigned_abs())),
            Self::Failed(Why::Nonsense) => (b'f', NONSENSE),
            Self::Failed(Why::TooMuch) => (b'f', TOO_MUCH),
            Self::Hole(length) => (b'h', length),
        };
        let mut head = [kind; HEAD];
        if let Some(place) = head.get_mut(1..) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        head
    }

    /// The frame that begins so.
    pub fn of(head: [u8; HEAD]) -> Result<Self, Why> {
        let [kind, number @ ..] = head;
        let number = u64::from_be_bytes(number);
        match kind {
            b'd' => match usize::try_from(number) {
                Ok(length @ 1..=DATA_MAX) => Ok(Self::Data(length)),
                _ => Err(Why::Nonsense),
            },
            b'e' if number == 0 => Ok(Self::End),
            b'f' => Ok(Self::Failed(match number {
                TOO_MUCH => Why::TooMuch,
                NONSENSE => Why::Nonsense,
                code => Why::Kernel(i32::try_from(code).unwrap_or(i32::MAX)),
            })),
            b'h' => Ok(Self::Hole(number)),
            _ => Err(Why::Nonsense),
        }
    }
}

impl From<io::Error> for Why {
    fn from(error: io::Error) -> Self {
        /// EIO, for what has no number.
        const IO: i32 = 5;
        Self::Kernel(error.raw_os_error().unwrap_or(IO))
    }
}

impl From<Why> for io::Error {
    fn from(why: Why) -> Self {
        match why {
            Why::Kernel(code) => Self::from_raw_os_error(code),
            why => Self::other(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_they_were_written_and_nothing_else_is() {
        for frame in [
            Frame::Data(1),
            Frame::Data(DATA_MAX),
            Frame::End,
            Frame::Failed(Why::Kernel(28)),
            Frame::Failed(Why::Nonsense),
            Frame::Failed(Why::TooMuch),
            Frame::Hole(u64::MAX),
        ] {
            assert_eq!(Frame::of(frame.head()), Ok(frame));
        }
        for head in
            [Frame::Data(0).head(), Frame::Data(DATA_MAX + 1).head(), *b"e\0\0\0\0\0\0\0\x01", [0; HEAD]]
        {
            assert_eq!(Frame::of(head), Err(Why::Nonsense));
        }
    }
}
