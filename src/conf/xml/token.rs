//! The small grammars inside a token: characters, names, references, attributes. No state.

use std::borrow::Cow;

use super::{MAX_ATTRIBUTES, MAX_BYTES, XmlError, XmlErrorKind};

/// Checks size, encoding and characters of the whole input.
pub(super) fn characters(input: &[u8]) -> Result<&str, XmlError> {
    if input.len() > MAX_BYTES {
        return Err(XmlError { line: 1, kind: XmlErrorKind::TooLarge });
    }
    let text = match std::str::from_utf8(input) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => {
            let before = input.get(..error.valid_up_to()).unwrap_or_default();
            return Err(XmlError { line: 1 + newlines(before), kind: XmlErrorKind::Encoding });
        }
    };
    match text.char_indices().find(|(_, c)| !is_char(*c)) {
        None => Ok(text),
        Some((at, c)) => Err(XmlError {
            line: 1 + newlines(text.get(..at).unwrap_or_default().as_bytes()),
            kind: XmlErrorKind::Control(u32::from(c)),
        }),
    }
}

/// How many line ends there are.
pub(super) fn newlines(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.iter().filter(|byte| **byte == b'\n').count()).unwrap_or(u32::MAX)
}

/// XML 1.0's `Char`.
fn is_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// XML's white space; Rust's notion is wider.
pub(super) fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

/// XML 1.0's `NameStartChar` without the colon.
fn starts_name(c: char) -> bool {
    matches!(c,
        'A'..='Z' | '_' | 'a'..='z' | '\u{c0}'..='\u{d6}' | '\u{d8}'..='\u{f6}' | '\u{f8}'..='\u{2ff}'
        | '\u{370}'..='\u{37d}' | '\u{37f}'..='\u{1fff}' | '\u{200c}' | '\u{200d}' | '\u{2070}'..='\u{218f}'
        | '\u{2c00}'..='\u{2fef}' | '\u{3001}'..='\u{d7ff}' | '\u{f900}'..='\u{fdcf}'
        | '\u{fdf0}'..='\u{fffd}' | '\u{10000}'..='\u{effff}')
}

/// XML 1.0's `NameChar` without the colon.
fn continues_name(c: char) -> bool {
    starts_name(c)
        || matches!(c, '-' | '.' | '0'..='9' | '\u{b7}' | '\u{300}'..='\u{36f}' | '\u{203f}' | '\u{2040}')
}

/// Checks a name without a colon.
pub(super) fn plain_name(name: &str) -> Result<(), XmlErrorKind> {
    let mut characters = name.chars();
    if characters.next().is_some_and(starts_name) && characters.all(continues_name) {
        return Ok(());
    }
    Err(XmlErrorKind::Name(crate::conf::error::clip(name)))
}

/// Splits a name at its colon and checks both sides; the prefix is empty without one.
pub(super) fn qualified_name(name: &str) -> Result<(&str, &str), XmlErrorKind> {
    let (prefix, local) = match name.split_once(':') {
        Some((prefix, local)) => {
            plain_name(prefix)?;
            (prefix, local)
        }
        None => ("", name),
    };
    plain_name(local)?;
    Ok((prefix, local))
}

/// What `&reference;` stands for.
pub(super) fn reference(name: &str) -> Result<char, XmlErrorKind> {
    let unknown = || XmlErrorKind::Entity(crate::conf::error::clip(name));
    let Some(number) = name.strip_prefix('#') else {
        return match name {
            "amp" => Ok('&'),
            "apos" => Ok('\''),
            "gt" => Ok('>'),
            "lt" => Ok('<'),
            "quot" => Ok('"'),
            _ => Err(unknown()),
        };
    };
    let (digits, radix) = match number.strip_prefix('x') {
        Some(hexadecimal) => (hexadecimal, 16),
        None => (number, 10),
    };
    // from_str_radix would take a sign.
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(unknown());
    }
    let code = u32::from_str_radix(digits, radix).map_err(|_| unknown())?;
    char::from_u32(code).filter(|c| is_char(*c)).ok_or(XmlErrorKind::Control(code))
}

/// Line ends as XML normalises them.
pub(super) fn line_ends(text: &str) -> Cow<'_, str> {
    if text.contains('\r') {
        Cow::Owned(text.replace("\r\n", "\n").replace('\r', "\n"))
    } else {
        Cow::Borrowed(text)
    }
}

/// An attribute's value, normalised as CDATA.
fn value(raw: &str) -> Result<Cow<'_, str>, XmlErrorKind> {
    if !raw.contains(['&', '\t', '\n', '\r', '<']) {
        return Ok(Cow::Borrowed(raw));
    }
    let raw = line_ends(raw);
    let mut rest = raw.as_ref();
    let mut value = String::with_capacity(rest.len());
    while let Some(at) = rest.find(['&', '\t', '\n', '<']) {
        let (before, after) = rest.split_at(at);
        value.push_str(before);
        let mut tail = after.chars();
        match tail.next() {
            Some('&') => {
                let (name, after) = tail.as_str().split_once(';').ok_or(XmlErrorKind::Text("a bare &"))?;
                value.push(reference(name)?);
                rest = after;
            }
            Some('<') => return Err(XmlErrorKind::Attribute("< in a value")),
            _ => {
                value.push(' ');
                rest = tail.as_str();
            }
        }
    }
    value.push_str(rest);
    Ok(Cow::Owned(value))
}

/// Reads ` name="value" …`; what is left over must be white space.
pub(super) fn attributes(raw: &str) -> Result<Vec<(&str, Cow<'_, str>)>, XmlErrorKind> {
    let mut found = Vec::new();
    let mut rest = raw;
    loop {
        let trimmed = rest.trim_start_matches(is_space);
        if trimmed.is_empty() {
            return Ok(found);
        }
        if trimmed.len() == rest.len() {
            return Err(XmlErrorKind::Attribute("no space before a name"));
        }
        if found.len() == MAX_ATTRIBUTES {
            return Err(XmlErrorKind::TooMany("attributes of one element"));
        }
        let (name, after) = trimmed.split_once('=').ok_or(XmlErrorKind::Attribute("a name without ="))?;
        let after = after.trim_start_matches(is_space);
        let quote = after.chars().next().filter(|c| matches!(c, '"' | '\''));
        let quote = quote.ok_or(XmlErrorKind::Attribute("a value without quotes"))?;
        let (content, after) = after
            .get(1..)
            .and_then(|inner| inner.split_once(quote))
            .ok_or(XmlErrorKind::Attribute("a value without its end"))?;
        found.push((name.trim_end_matches(is_space), value(content)?));
        rest = after;
    }
}
