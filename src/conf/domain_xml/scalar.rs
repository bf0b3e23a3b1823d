//! Numbers, sizes and paths, as libvirt writes them.

use super::view::{Read, View};
use crate::conf::xml::Document;

/// The longest path that the kernel takes, in bytes.
const PATH_MAX: usize = 4095;
/// libvirt counts memory in KiB.
const KIB: u64 = 1024;

/// A decimal number without a sign; white space around it is allowed, as in libvirt.
pub(super) fn number<T: TryFrom<u64>>(text: &str) -> Option<T> {
    let digits = text.trim_matches([' ', '\t', '\n', '\r']);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    T::try_from(digits.parse::<u64>().ok()?).ok()
}

/// An attribute with a number of at least `least`.
pub(super) fn number_attribute<T: TryFrom<u64>>(view: View<'_>, name: &str, least: u64) -> Read<Option<T>> {
    let Some(text) = view.attribute(name) else { return Ok(None) };
    let value = number::<u64>(text).filter(|value| *value >= least).and_then(|value| T::try_from(value).ok());
    match value {
        Some(value) => Ok(Some(value)),
        None => Err(view.value(
            format!("attribute {name} of {}", view.tag()),
            text,
            format!("a number of at least {least} that fits"),
        )),
    }
}

/// libvirt's `virScaleInteger`: what one unit is in bytes.
fn scale(unit: &str) -> Option<u64> {
    let lower = unit.to_ascii_lowercase();
    let (prefix, base) = match lower.as_str() {
        "b" | "byte" | "bytes" => return Some(1),
        _ => match lower.strip_suffix("ib").map(|prefix| (prefix, 1024)) {
            Some(binary) => binary,
            None => lower.strip_suffix('b').map_or((lower.as_str(), 1024_u64), |prefix| (prefix, 1000)),
        },
    };
    let power = match prefix {
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        "e" => 6,
        _ => return None,
    };
    base.checked_pow(power)
}

/// A memory size with `unit`, KiB without one; rounded up to whole KiB.
pub(super) fn memory(view: View<'_>) -> Read<u64> {
    memory_or(view, "KiB")
}

/// The same, with another unit where there is none.
pub(super) fn memory_or(view: View<'_>, unit: &str) -> Read<u64> {
    let text = view.leaf(&["unit"])?;
    let unit = view.attribute("unit").unwrap_or(unit);
    let factor = scale(unit).ok_or_else(|| {
        view.value(format!("attribute unit of {}", view.tag()), unit, "a unit such as KiB, MiB or GiB")
    })?;
    let bytes = number::<u64>(&text)
        .and_then(|value| value.checked_mul(factor))
        .and_then(|bytes| bytes.checked_next_multiple_of(KIB));
    match bytes {
        // QEMU's sizes are signed.
        Some(bytes) if i64::try_from(bytes).is_ok() => Ok(bytes),
        _ => Err(view.value(view.tag(), &text, "a memory size below 8 EiB")),
    }
}

/// A size above 0 in an attribute, in bytes; the unit stands in another one, KiB without it.
pub(super) fn scaled_attribute(view: View<'_>, name: &str, unit: &str) -> Read<u64> {
    let text = view.required(name)?;
    let word = view.attribute(unit).unwrap_or("KiB");
    let factor = scale(word).ok_or_else(|| {
        view.value(format!("attribute {unit} of {}", view.tag()), word, "a unit such as KiB, MiB or GiB")
    })?;
    let bytes = number::<u64>(text).filter(|value| *value > 0).and_then(|value| value.checked_mul(factor));
    bytes.ok_or_else(|| {
        view.value(format!("attribute {name} of {}", view.tag()), text, "a size above 0 that fits")
    })
}

/// Checks a path: absolute, without control characters, within the kernel's length.
pub(super) fn path(view: View<'_>, what: &str, text: &str) -> Read<String> {
    let fine = text.starts_with('/')
        && text.len() > 1
        && text.len() <= PATH_MAX
        && !text.ends_with('/')
        && !text.chars().any(char::is_control);
    if fine {
        return Ok(text.to_owned());
    }
    Err(view.value(what, text, "an absolute path of a file, without control characters"))
}

/// A path in an attribute that must be there.
pub(super) fn path_attribute(view: View<'_>, name: &str) -> Read<String> {
    path(view, &format!("attribute {name} of {}", view.tag()), view.required(name)?)
}

/// A path as an element's text.
pub(super) fn path_text(view: View<'_>) -> Read<String> {
    path(view, &view.tag(), &view.leaf(&[])?)
}

/// A name that becomes part of a QEMU option: letters, digits, `.`, `_`, `-`, at most 64 bytes.
pub(super) fn option_name(view: View<'_>, what: &str, text: &str) -> Read<String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let starts_well = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if starts_well && text.len() <= 64 && text.bytes().all(allowed) {
        return Ok(text.to_owned());
    }
    Err(view.value(what, text, "a name of letters, digits, '.', '_' and '-'"))
}

/// Accepts libvirt's generated `<alias>`; svirt gives aliases itself, by the same rules.
pub(super) fn alias(view: View<'_>) -> Read<()> {
    let Some(alias) = view.one("alias")? else { return Ok(()) };
    alias.only(&["name"], &[])?;
    if alias.required("name")?.starts_with("ua-") {
        return Err(alias.unsupported("a user's own <alias>"));
    }
    Ok(())
}

/// `<boot order>` of a device.
pub(super) fn boot_order(view: View<'_>) -> Read<Option<u32>> {
    let Some(boot) = view.one("boot")? else { return Ok(None) };
    boot.only(&["order"], &[])?;
    boot.required("order")?;
    number_attribute(boot, "order", 1)
}

/// The root of a document, which must be libvirt's `<domain>`.
pub(super) fn domain<'d>(document: &'d Document<'d>) -> Read<View<'d>> {
    let root = View::root(document);
    if root.tag() == "<domain>" {
        return Ok(root);
    }
    Err(root.value("the root element", &root.tag(), "<domain>"))
}
