//! Key codes of clients as QEMU's key numbers: XT scan codes, with 0x80 added for those with an extension byte.

/// virKeycodeSet: the sets that are understood.
const LINUX: u32 = 0;
const XT: u32 = 1;
const ATSET1: u32 = 2;
const QNUM: u32 = 9;

/// Linux's numbers (`linux/input-event-codes.h`) from 84 on, whose scan codes differ from them.
const EXTENDED: &[(u32, u8)] = &[
    (85, 0x76),
    (86, 0x56),
    (87, 0x57),
    (88, 0x58),
    (89, 0x73),
    (90, 0x78),
    (91, 0x77),
    (92, 0x79),
    (93, 0x70),
    (94, 0x7b),
    (95, 0x5c),
    (96, 0x9c),
    (97, 0x9d),
    (98, 0xb5),
    (99, 0x54),
    (100, 0xb8),
    (101, 0x5b),
    (102, 0xc7),
    (103, 0xc8),
    (104, 0xc9),
    (105, 0xcb),
    (106, 0xcd),
    (107, 0xcf),
    (108, 0xd0),
    (109, 0xd1),
    (110, 0xd2),
    (111, 0xd3),
    (113, 0xa0),
    (114, 0xae),
    (115, 0xb0),
    (116, 0xde),
    (117, 0x59),
    (119, 0xc6),
    (121, 0x7e),
    (124, 0x7d),
    (125, 0xdb),
    (126, 0xdc),
    (127, 0xdd),
];

/// What keeps a key from being sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyError {
    /// The set is not understood.
    Set,
    /// The set has no such code.
    Code(u32),
}

/// The number of one key.
pub(super) fn number(set: u32, code: u32) -> Result<u8, KeyError> {
    let byte = || u8::try_from(code).ok().filter(|byte| *byte != 0).ok_or(KeyError::Code(code));
    match set {
        // Up to 83 Linux took the scan codes over.
        LINUX if (1..=83).contains(&code) => byte(),
        LINUX => {
            let found = EXTENDED.iter().find(|(linux, _)| *linux == code);
            found.map(|(_, number)| *number).ok_or(KeyError::Code(code))
        }
        // Extended codes are written with their extension byte in front.
        XT | ATSET1 if code >> 8 == 0xe0 => {
            let low = u8::try_from(code & 0xff).ok().filter(|low| *low != 0 && *low < 0x80);
            low.map(|low| low | 0x80).ok_or(KeyError::Code(code))
        }
        XT | ATSET1 if code < 0x80 => byte(),
        XT | ATSET1 => Err(KeyError::Code(code)),
        QNUM => byte(),
        _ => Err(KeyError::Set),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_alt_delete_in_each_set() {
        assert_eq!([29, 56, 111].map(|code| number(LINUX, code)), [Ok(0x1d), Ok(0x38), Ok(0xd3)]);
        assert_eq!([0x1d, 0x38, 0xe053].map(|code| number(XT, code)), [Ok(0x1d), Ok(0x38), Ok(0xd3)]);
        assert_eq!(number(QNUM, 0xd3), Ok(0xd3));
    }

    #[test]
    fn what_no_key_has_is_refused() {
        assert_eq!(number(LINUX, 0), Err(KeyError::Code(0)));
        assert_eq!(number(LINUX, 500), Err(KeyError::Code(500)));
        assert_eq!(number(XT, 0xe0), Err(KeyError::Code(0xe0)));
        assert_eq!(number(QNUM, 256), Err(KeyError::Code(256)));
        assert_eq!(number(5, 1), Err(KeyError::Set));
    }
}
