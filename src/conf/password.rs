//! What a display asks of those who come to it, as its attributes say it.

use super::DefinitionErrorKind;
use super::error::clip;
use crate::base::Secret;
use crate::privsep::password::{Connected, Password};
use crate::privsep::supervisor::Graphics;

/// The attributes that say it; the first one is the secret.
pub(super) const ATTRIBUTES: [&str; 3] = ["passwd", "passwdValidTo", "connected"];

/// Why a display cannot ask that, and what to do about it.
pub(super) type Wrong = (DefinitionErrorKind, String);

/// Reads a display's attributes; nothing where it has no password, whatever the others say then. No error says the
/// password.
pub(super) fn read<'a>(
    protocol: Graphics,
    attribute: impl Fn(&str) -> Option<&'a str>,
) -> Result<Option<Password>, Wrong> {
    let Some(secret) = attribute("passwd").map(Secret::new) else { return Ok(None) };
    let (name, most) = (name(protocol), Password::most(protocol));
    if secret.bytes() > most {
        let what = format!("{name} password is {} characters long, only {most} permitted", secret.bytes());
        let remedy = format!("give it at most {most} bytes, each letter of ASCII one");
        return Err((DefinitionErrorKind::Contradiction(what), remedy));
    }
    let connected = attribute("connected").map(|word| connected(protocol, word)).transpose()?;
    let until = attribute("passwdValidTo").map(valid_to).transpose()?;
    Ok(Some(Password { protocol, secret, connected, until }))
}

fn name(protocol: Graphics) -> &'static str {
    match protocol {
        Graphics::Spice => "SPICE",
        Graphics::Vnc => "VNC",
    }
}

fn connected(protocol: Graphics, word: &str) -> Result<Connected, Wrong> {
    let contradiction =
        |what: String, remedy: &str| (DefinitionErrorKind::Contradiction(what), remedy.into());
    let found = Connected::WORDS.iter().find(|(known, _)| *known == word).map(|(_, value)| *value);
    match (protocol, found) {
        (_, None) => Err(contradiction(
            format!("unknown connected value {}", clip(word)),
            "use disconnect, fail or keep",
        )),
        (Graphics::Vnc, Some(Connected::Disconnect | Connected::Fail)) => Err(contradiction(
            "VNC supports connected='keep' only".into(),
            "write connected='keep', or leave it out",
        )),
        (_, Some(connected)) => Ok(connected),
    }
}

fn valid_to(text: &str) -> Result<u64, Wrong> {
    seconds(text).ok_or_else(|| {
        let expected = "a time of UTC, YYYY-MM-DDTHH:MM:SS";
        let kind = DefinitionErrorKind::value("attribute passwdValidTo of <graphics>", text, expected);
        (kind, format!("give it {expected}"))
    })
}

/// A time of UTC in seconds since the epoch; 0 for what lies before that.
fn seconds(text: &str) -> Option<u64> {
    let (date, time) = text.split_once('T')?;
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(time, ':')?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if year == 0 || !(1..=days).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    // The year begins in March here, so that the leap day is its last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    // Days from there to the epoch.
    let seconds = (days - 719_468) * 86_400 + hour * 3600 + minute * 60 + second;
    Some(u64::try_from(seconds).unwrap_or(0))
}

/// Three numbers of up to four digits.
fn numbers(text: &str, between: char) -> Option<[i64; 3]> {
    let mut parts = text.split(between).map(|part| {
        let digits = (1..=4).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
        part.parse().ok().filter(|_| digits)
    });
    let all = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(all)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_those_of_utc() {
        assert_eq!(seconds("1970-01-01T00:00:00"), Some(0));
        assert_eq!(seconds("2000-02-29T12:34:56"), Some(951_827_696));
        assert_eq!(seconds("2030-01-02T03:04:05"), Some(1_893_553_445));
        assert_eq!(seconds("2030-1-2T3:4:5"), Some(1_893_553_445));
        assert_eq!(seconds("9999-12-31T23:59:59"), Some(253_402_300_799));
        assert_eq!(seconds("1960-01-01T00:00:00"), Some(0));
        for wrong in [
            "",
            "2030-01-02",
            "2030-01-02 03:04:05",
            "2030-01-02T03:04:05Z",
            "2030-01-02T03:04:05+01:00",
            "2030-01-02T03:04:05.5",
            "20300102T030405",
            "2030-02-30T03:04:05",
            "1900-02-29T00:00:00",
            "2030-01-02T24:00:00",
            "2030-01-02T23:59:60",
            "2030-13-02T23:59:00",
            "0000-01-01T00:00:00",
            "+203-01-01T00:00:00",
            "99999-01-01T00:00:00",
        ] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }

    fn of(protocol: Graphics, attributes: &[(&str, &'static str)]) -> Result<Option<Password>, Wrong> {
        read(protocol, |name| attributes.iter().find(|(known, _)| *known == name).map(|(_, value)| *value))
    }

    #[test]
    fn without_a_password_nothing_is_asked() {
        assert_eq!(
            of(Graphics::Vnc, &[("connected", "nonsense"), ("passwdValidTo", "never")]).unwrap(),
            None
        );
        let empty = of(Graphics::Vnc, &[("passwd", "")]).unwrap().unwrap();
        assert_eq!(empty.expiry(), Some(0));
    }

    #[test]
    fn a_refusal_does_not_say_the_password() {
        let long = "geheim-geheim";
        let refused = of(Graphics::Vnc, &[("passwd", long)]).unwrap_err();
        assert!(refused.0.to_string().contains("13 characters long, only 8 permitted"), "{refused:?}");
        for wrong in [("connected", "fail"), ("connected", "x"), ("passwdValidTo", "x")] {
            let refused = format!("{:?}", of(Graphics::Vnc, &[("passwd", "geheim"), wrong]).unwrap_err());
            assert!(!refused.contains("geheim"), "{refused}");
        }
        assert!(of(Graphics::Spice, &[("passwd", long), ("connected", "fail")]).unwrap().is_some());
    }

    proptest! {
        #[test]
        fn any_text_is_a_time_or_none(text in "[0-9T:+ -]{0,24}") {
            let _ = seconds(&text);
        }
    }
}
