//! XDR as libvirt uses it: big-endian, four-byte aligned, every length checked before anything is allocated.

/// The longest string in bytes.
pub const STRING_MAX: usize = 4 << 20;

/// Why bytes are not the value that was expected, or a value does not fit the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XdrError {
    /// The input ends inside a value.
    #[error("the message ends in the middle of a value")]
    Short,
    /// A count or length is above what the protocol allows there.
    #[error("{found} elements where at most {max} may stand")]
    TooLong {
        /// What the message says.
        found: usize,
        /// What the protocol allows.
        max: usize,
    },
    /// A value that the type does not have.
    #[error("a value that its type does not have")]
    Value,
    /// A string is not UTF-8, or contains a NUL, which no client of libvirt's could have sent.
    #[error("a string that is no text")]
    Text,
}

/// A position in a message that is being read.
#[derive(Clone, Debug)]
pub struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    /// Starts at the beginning of a payload.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Reads one value.
    pub fn take<T: Decode<'a>>(&mut self) -> Result<T, XdrError> {
        T::decode(self)
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8], XdrError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(XdrError::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn word(&mut self) -> Result<[u8; 4], XdrError> {
        let (taken, rest) = self.rest.split_first_chunk::<4>().ok_or(XdrError::Short)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// Opaque bytes of a known count, and their padding, which may be anything: libvirt does not look at it either.
    fn opaque(&mut self, count: usize) -> Result<&'a [u8], XdrError> {
        let bytes = self.bytes(count)?;
        self.bytes(padding(count))?;
        Ok(bytes)
    }

    fn count(&mut self, max: usize) -> Result<usize, XdrError> {
        let found = self.take::<u32>()? as usize;
        if found > max { Err(XdrError::TooLong { found, max }) } else { Ok(found) }
    }
}

fn padding(count: usize) -> usize {
    count.wrapping_neg() % 4
}

/// A value that can be read from a message.
pub trait Decode<'a>: Sized {
    /// Reads it.
    fn decode(from: &mut Decoder<'a>) -> Result<Self, XdrError>;
}

/// A message that is being written.
#[derive(Debug, Default)]
pub struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    /// An empty message.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes one value.
    pub fn put<T: Encode + ?Sized>(&mut self, value: &T) -> Result<(), XdrError> {
        value.encode(self)
    }

    /// What was written.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn opaque(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(self.bytes.len() + padding(bytes.len()), 0);
    }

    fn count(&mut self, found: usize, max: usize) -> Result<(), XdrError> {
        let count = u32::try_from(found).ok().filter(|_| found <= max);
        count.ok_or(XdrError::TooLong { found, max })?.encode(self)
    }
}

/// A value that can be written to a message.
pub trait Encode {
    /// Writes it.
    fn encode(&self, to: &mut Encoder) -> Result<(), XdrError>;
}

macro_rules! four_bytes {
    ($($number:ty),*) => {$(
        impl Decode<'_> for $number {
            fn decode(from: &mut Decoder<'_>) -> Result<Self, XdrError> {
                from.word().map(<$number>::from_be_bytes)
            }
        }
        impl Encode for $number {
            fn encode(&self, to: &mut Encoder) -> Result<(), XdrError> {
                to.bytes.extend_from_slice(&self.to_be_bytes());
                Ok(())
            }
        }
    )*};
}

macro_rules! eight_bytes {
    ($($number:ty),*) => {$(
        impl Decode<'_> for $number {
            fn decode(from: &mut Decoder<'_>) -> Result<Self, XdrError> {
                let (taken, rest) = from.rest.split_first_chunk::<8>().ok_or(XdrError::Short)?;
                from.rest = rest;
                Ok(<$number>::from_be_bytes(*taken))
            }
        }
        impl Encode for $number {
            fn encode(&self, to: &mut Encoder) -> Result<(), XdrError> {
                to.bytes.extend_from_slice(&self.to_be_bytes());
                Ok(())
            }
        }
    )*};
}

four_bytes!(u32, i32);
eight_bytes!(u64, i64, f64);

/// As libvirt's library reads it: whatever is not zero is true. (`go-libvirt` says 0x01000000 when it opens a connection.)
impl Decode<'_> for bool {
    fn decode(from: &mut Decoder<'_>) -> Result<Self, XdrError> {
        Ok(from.take::<u32>()? != 0)
    }
}

impl Encode for bool {
    fn encode(&self, to: &mut Encoder) -> Result<(), XdrError> {
        u32::from(*self).encode(to)
    }
}

impl<'a> Decode<'a> for &'a str {
    fn decode(from: &mut Decoder<'a>) -> Result<Self, XdrError> {
        let count = from.count(STRING_MAX)?;
        let text = std::str::from_utf8(from.opaque(count)?).map_err(|_| XdrError::Text)?;
        if text.contains('\0') { Err(XdrError::Text) } else { Ok(text) }
    }
}

impl Encode for str {
    fn encode(&self, to: &mut Encoder) -> Result<(), XdrError> {
        to.count(self.len(), STRING_MAX)?;
        to.opaque(self.as_bytes());
        Ok(())
    }
}

impl Encode for String {
    fn encode(&self, to: &mut Encoder) -> Result<(), XdrError> {
        self.as_str().encode(to)
    }
}

impl<T: Encode + ?Sized> Encode for &T {
    fn encode(&self, to: &mut Encoder) -> Result<(), XdrError> {
        (**self).encode(to)
    }
}

impl<'a, T: Decode<'a>> Decode<'a> for Option<T> {
    fn decode(from: &mut Decoder<'a>) -> Result<Self, XdrError> {
        from.take::<bool>()?.then(|| from.take()).transpose()
    }
}

impl<T: Encode> Encode for Option<T> {
    fn encode(&self, to: &mut Encoder) -> Result<(), XdrError> {
        self.is_some().encode(to)?;
        self.as_ref().map_or(Ok(()), |value| value.encode(to))
    }
}

/// Bytes of a fixed count, such as a uuid.
impl<const N: usize> Decode<'_> for [u8; N] {
    fn decode(from: &mut Decoder<'_>) -> Result<Self, XdrError> {
        from.opaque(N)?.first_chunk::<N>().copied().ok_or(XdrError::Short)
    }
}

impl<const N: usize> Encode for [u8; N] {
    fn encode(&self, to: &mut Encoder) -> Result<(), XdrError> {
        to.opaque(self);
        Ok(())
    }
}

/// Packed bytes with a count of at most `MAX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opaque<const MAX: usize>(pub Vec<u8>);

impl<const MAX: usize> Decode<'_> for Opaque<MAX> {
    fn decode(from: &mut Decoder<'_>) -> Result<Self, XdrError> {
        let count = from.count(MAX)?;
        Ok(Self(from.opaque(count)?.to_vec()))
    }
}

impl<const MAX: usize> Encode for Opaque<MAX> {
    fn encode(&self, to: &mut Encoder) -> Result<(), XdrError> {
        to.count(self.0.len(), MAX)?;
        to.opaque(&self.0);
        Ok(())
    }
}

/// An array with a count of at most `MAX`.
#[derive(Clone, Debug, PartialEq)]
pub struct List<T, const MAX: usize>(pub Vec<T>);

impl<'a, T: Decode<'a>, const MAX: usize> Decode<'a> for List<T, MAX> {
    fn decode(from: &mut Decoder<'a>) -> Result<Self, XdrError> {
        let count = from.count(MAX)?;
        // Each element takes at least four bytes, so that a short message cannot make a long vector.
        let mut elements = Vec::with_capacity(count.min(from.rest.len() / 4));
        for _ in 0..count {
            elements.push(from.take()?);
        }
        Ok(Self(elements))
    }
}

impl<T: Encode, const MAX: usize> Encode for List<T, MAX> {
    fn encode(&self, to: &mut Encoder) -> Result<(), XdrError> {
        to.count(self.0.len(), MAX)?;
        self.0.iter().try_for_each(|element| element.encode(to))
    }
}

macro_rules! tuples {
    ($(($($name:ident)*))*) => {$(
        impl<'a, $($name: Decode<'a>),*> Decode<'a> for ($($name,)*) {
            fn decode(_from: &mut Decoder<'a>) -> Result<Self, XdrError> {
                Ok(($($name::decode(_from)?,)*))
            }
        }
        impl<$($name: Encode),*> Encode for ($($name,)*) {
            fn encode(&self, _to: &mut Encoder) -> Result<(), XdrError> {
                #[allow(non_snake_case)]
                let ($($name,)*) = self;
                $($name.encode(_to)?;)*
                Ok(())
            }
        }
    )*};
}

tuples! { () (A) (A B) (A B C) (A B C D) (A B C D E) (A B C D E F) (A B C D E F G) (A B C D E F G H) }

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(value: &impl Encode) -> Vec<u8> {
        let mut to = Encoder::new();
        to.put(value).unwrap();
        to.into_bytes()
    }

    #[test]
    fn strings_are_counted_and_padded() {
        assert_eq!(encoded(&"abcde"), b"\0\0\0\x05abcde\0\0\0");
        assert_eq!(Decoder::new(b"\0\0\0\x05abcde\0\0\0").take::<&str>(), Ok("abcde"));
        assert_eq!(Decoder::new(b"\0\0\0\x05abcde\0\0\x01").take::<&str>(), Ok("abcde"));
        assert_eq!(Decoder::new(b"\0\0\0\x05abcde").take::<&str>(), Err(XdrError::Short));
        assert_eq!(Decoder::new(b"\0\0\0\x02a\0\0\0").take::<&str>(), Err(XdrError::Text));
        assert_eq!(Decoder::new(b"\0\0\0\x01\xff\0\0\0").take::<&str>(), Err(XdrError::Text));
    }

    #[test]
    fn a_count_is_refused_before_anything_is_allocated() {
        let long = Decoder::new(b"\xff\xff\xff\xff").take::<&str>();
        assert_eq!(long, Err(XdrError::TooLong { found: u32::MAX as usize, max: STRING_MAX }));
        assert_eq!(
            Decoder::new(b"\0\0\0\x05").take::<List<u32, 4>>(),
            Err(XdrError::TooLong { found: 5, max: 4 })
        );
        assert_eq!(Decoder::new(b"\0\x10\0\0").take::<List<u32, 16_777_216>>(), Err(XdrError::Short));
        assert!(List::<u32, 1>(vec![1, 2]).encode(&mut Encoder::new()).is_err());
    }

    #[test]
    fn absent_differs_from_empty() {
        assert_eq!(encoded(&None::<&str>), b"\0\0\0\0");
        assert_eq!(encoded(&Some("")), b"\0\0\0\x01\0\0\0\0");
        assert_eq!(Decoder::new(b"\x01\0\0\0\0\0\0\x07").take::<Option<u32>>(), Ok(Some(7)));
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(a: u32, b: i64, c in "[^\0]{0,40}", d: Option<bool>, e: Vec<i32>, f: [u8; 7], g: Vec<u8>) {
            let value = (a, b, c.as_str(), d, List::<i32, 1000>(e), f, Opaque::<1000>(g));
            let bytes = encoded(&value);
            prop_assert_eq!(bytes.len() % 4, 0);
            let mut from = Decoder::new(&bytes);
            let back: (u32, i64, &str, Option<bool>, List<i32, 1000>, [u8; 7], Opaque<1000>) = from.take().unwrap();
            prop_assert_eq!(back, value);
            prop_assert!(from.rest().is_empty());
        }
    }
}
