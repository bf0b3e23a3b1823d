//! The building blocks that many messages share. Arguments and results of one procedure are tuples of these.

use super::xdr::{Decode, Decoder, Encode, Encoder, List, Opaque, XdrError};

/// The longest name of a typed parameter, in bytes.
const FIELD_MAX: usize = 79;

/// A reference to a domain. In a request only the uuid counts; in a reply `id` is -1 for one that does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its uuid.
    pub uuid: [u8; 16],
    /// Its number while it runs, else -1.
    pub id: i32,
}

impl<'a> Decode<'a> for Domain<'a> {
    fn decode(from: &mut Decoder<'a>) -> Result<Self, XdrError> {
        let (name, uuid, id) = from.take()?;
        Ok(Self { name, uuid, id })
    }
}

impl Encode for Domain<'_> {
    fn encode(&self, to: &mut Encoder) -> Result<(), XdrError> {
        to.put(&(self.name, self.uuid, self.id))
    }
}

/// A C string declared as an array of characters: each takes four bytes, and the count includes the NUL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chars<'a>(pub &'a str);

impl Chars<'_> {
    /// Writes exactly `N` characters, padded with NULs, without a count.
    #[must_use]
    pub fn fixed<const N: usize>(self) -> [i32; N] {
        let mut all = [0; N];
        // The last one stays NUL.
        for (place, byte) in all.iter_mut().take(N.saturating_sub(1)).zip(self.0.bytes()) {
            *place = i32::from(byte);
        }
        all
    }
}

impl Encode for Chars<'_> {
    fn encode(&self, to: &mut Encoder) -> Result<(), XdrError> {
        let characters = self.0.bytes().chain([0]).map(i32::from).collect();
        to.put(&List::<i32, 4097>(characters))
    }
}

/// An array of a fixed count, without one.
impl<const N: usize> Encode for [i32; N] {
    fn encode(&self, to: &mut Encoder) -> Result<(), XdrError> {
        self.iter().try_for_each(|word| to.put(word))
    }
}

/// A named value of one of seven types.
#[derive(Clone, Debug, PartialEq)]
pub struct TypedParam<'a> {
    /// Its name.
    pub field: &'a str,
    /// Its value.
    pub value: ParamValue<'a>,
}

/// The value of a [`TypedParam`].
#[derive(Clone, Debug, PartialEq)]
pub enum ParamValue<'a> {
    /// Type 1.
    Int(i32),
    /// Type 2.
    Uint(u32),
    /// Type 3.
    Llong(i64),
    /// Type 4.
    Ullong(u64),
    /// Type 5.
    Double(f64),
    /// Type 6.
    Boolean(bool),
    /// Type 7.
    Text(&'a str),
}

impl<'a> Decode<'a> for TypedParam<'a> {
    fn decode(from: &mut Decoder<'a>) -> Result<Self, XdrError> {
        let (field, kind): (&str, i32) = from.take()?;
        if field.len() > FIELD_MAX {
            return Err(XdrError::TooLong { found: field.len(), max: FIELD_MAX });
        }
        let value = match kind {
            1 => ParamValue::Int(from.take()?),
            2 => ParamValue::Uint(from.take()?),
            3 => ParamValue::Llong(from.take()?),
            4 => ParamValue::Ullong(from.take()?),
            5 => ParamValue::Double(from.take()?),
            6 => ParamValue::Boolean(from.take()?),
            7 => ParamValue::Text(from.take()?),
            _ => return Err(XdrError::Value),
        };
        Ok(Self { field, value })
    }
}

impl Encode for TypedParam<'_> {
    fn encode(&self, to: &mut Encoder) -> Result<(), XdrError> {
        to.put(self.field)?;
        match &self.value {
            ParamValue::Int(value) => to.put(&(1_i32, value)),
            ParamValue::Uint(value) => to.put(&(2_i32, value)),
            ParamValue::Llong(value) => to.put(&(3_i32, value)),
            ParamValue::Ullong(value) => to.put(&(4_i32, value)),
            ParamValue::Double(value) => to.put(&(5_i32, value)),
            ParamValue::Boolean(value) => to.put(&(6_i32, value)),
            ParamValue::Text(value) => to.put(&(7_i32, value)),
        }
    }
}

/// An error as it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorBody<'a> {
    /// libvirt's error number.
    pub code: i32,
    /// Which part of libvirt it would come from.
    pub domain: i32,
    /// What a person reads.
    pub message: &'a str,
}

/// libvirt's level for errors, as opposed to warnings.
const LEVEL_ERROR: i32 = 2;

impl Encode for ErrorBody<'_> {
    fn encode(&self, to: &mut Encoder) -> Result<(), XdrError> {
        let nothing: Option<u32> = None;
        to.put(&(self.code, self.domain, Some(self.message), LEVEL_ERROR, nothing))?;
        to.put(&(Some("%s"), Some(self.message), nothing, -1_i32, -1_i32, nothing))
    }
}

/// Decodes a payload as everything that any request may hold; for fuzzers.
pub(super) fn try_every_layout(payload: &[u8]) {
    fn from<'a, T: Decode<'a>>(payload: &'a [u8]) {
        let _ = Decoder::new(payload).take::<T>();
    }
    from::<(Option<&str>, u32)>(payload);
    from::<(Domain<'_>, u32)>(payload);
    from::<(Domain<'_>, &str, u32)>(payload);
    from::<(Domain<'_>, Option<&str>, u32)>(payload);
    from::<(i32, Option<Domain<'_>>)>(payload);
    from::<(Option<&str>, Option<&str>, Option<&str>, Option<&str>, u32)>(payload);
    from::<(Domain<'_>, List<TypedParam<'_>, 64>, Opaque<4_194_304>, u32)>(payload);
    from::<(List<Domain<'_>, 16_384>, u32, u32)>(payload);
    from::<(bool, bool, u32, u64, i64, f64)>(payload);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn encoded(value: &impl Encode) -> Vec<u8> {
        let mut to = Encoder::new();
        to.put(value).unwrap();
        to.into_bytes()
    }

    fn words(bytes: &[u8]) -> Vec<u32> {
        bytes.chunks(4).map(|word| u32::from_be_bytes(word.try_into().unwrap())).collect()
    }

    #[test]
    fn characters_take_four_bytes_and_count_their_nul() {
        let model = words(&encoded(&(Chars("none"), Chars("0"))));
        assert_eq!(model, [5, 0x6e, 0x6f, 0x6e, 0x65, 0, 2, 0x30, 0]);
        assert_eq!(encoded(&Chars("x86_64").fixed::<32>()).len(), 128);
        assert_eq!(Chars("abcdef").fixed::<3>(), [97, 98, 0]);
    }

    #[test]
    fn an_error_is_as_stock_sends_it() {
        let message = "unknown procedure: 9999";
        let bytes = encoded(&ErrorBody { code: 39, domain: 7, message });
        let text = 24 / 4;
        let all = words(&bytes);
        assert_eq!(all.get(..4), Some(&[39, 7, 1, 23][..]));
        assert_eq!(all.get(4 + text..8 + text), Some(&[2, 0, 1, 2][..]));
        assert_eq!(all.get(all.len() - 4..), Some(&[0, u32::MAX, u32::MAX, 0][..]));
        assert_eq!(bytes.get(16..16 + message.len()), Some(message.as_bytes()));
    }

    #[test]
    fn typed_parameters_come_back() {
        let values = [
            ParamValue::Int(-1),
            ParamValue::Uint(1),
            ParamValue::Llong(-1),
            ParamValue::Ullong(1),
            ParamValue::Double(0.5),
            ParamValue::Boolean(true),
            ParamValue::Text("a"),
        ];
        for value in values {
            let param = TypedParam { field: "state.state", value };
            assert_eq!(Decoder::new(&encoded(&param)).take(), Ok(param));
        }
        assert_eq!(
            Decoder::new(&encoded(&("x", 8_i32, 0_u64))).take::<TypedParam<'_>>(),
            Err(XdrError::Value)
        );
        let long = "x".repeat(80);
        assert!(Decoder::new(&encoded(&(long, 1_i32, 0_i32))).take::<TypedParam<'_>>().is_err());
    }
}
