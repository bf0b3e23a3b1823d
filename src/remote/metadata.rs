//! Calls that read and set what is said about a domain: title, description, other programs' elements, and its name.

use super::call::{Answer, Call};
use super::domain::definition;
use super::error::{Code, Failure, From};
use super::live::{AFFECT_CONFIG, AFFECT_LIVE, impact};
use crate::base::DomainName;
use crate::manager::Metadata;
use crate::rpc::{self, Procedure};

/// All of them read or write the store.
pub(super) fn handler(procedure: Procedure) -> Option<fn(&Call<'_>) -> Answer> {
    use Procedure as P;
    Some(match procedure {
        P::DomainGetMetadata => get,
        P::DomainRename => rename,
        P::DomainSetMetadata => set,
        _ => return None,
    })
}

/// virDomainMetadataType
fn which<'a>(kind: i32, namespace: Option<&'a str>) -> Result<Metadata<'a>, Failure> {
    let wrong = |text: &str| Failure::new(Code::InvalidArgument, From::Domain, text);
    match (kind, namespace) {
        (0 | 1, Some(_)) => Err(wrong("uri must be NULL for a title or a description")),
        (0, None) => Ok(Metadata::Description),
        (1, None) => Ok(Metadata::Title),
        (2, Some(namespace)) if !namespace.is_empty() => Ok(Metadata::Element(namespace)),
        (2, _) => Err(wrong("uri must not be NULL for an element")),
        _ => Err(wrong("unknown metadata type")),
    }
}

fn get(call: &Call<'_>) -> Answer {
    let (reference, kind, namespace, flags): (rpc::Domain<'_>, i32, Option<&str>, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, AFFECT_LIVE | AFFECT_CONFIG)?;
    if flags == AFFECT_LIVE | AFFECT_CONFIG {
        let text = "flags live and config exclude each other";
        return Err(Failure::new(Code::InvalidArgument, From::Domain, text));
    }
    let what = which(kind, namespace)?;
    definition(&target.domain)?;
    let kept = impact(&target, flags)?.config;
    let missing =
        || Failure::new(Code::NoMetadata, From::Domain, "Requested metadata element is not present");
    call.answer(&call.manager().metadata(&target.domain, kept, what)?.ok_or_else(missing)?)
}

fn set(call: &Call<'_>) -> Answer {
    type Arguments<'a> = (rpc::Domain<'a>, i32, Option<&'a str>, (Option<&'a str>, Option<&'a str>), u32);
    let (reference, kind, text, (key, namespace), flags): Arguments<'_> = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, AFFECT_LIVE | AFFECT_CONFIG)?;
    let what = which(kind, namespace)?;
    let wrong = |text: &str| Err(Failure::new(Code::InvalidArgument, From::Domain, text));
    match what {
        Metadata::Title if text.is_some_and(|text| text.contains('\n')) => {
            return wrong("metadata title can't contain newlines");
        }
        Metadata::Element(_) if text.is_some() && key.is_none() => return wrong("key must not be NULL"),
        _ => {}
    }
    let impact = impact(&target, flags)?;
    let (manager, uuid) = target.parts();
    manager.set_metadata(uuid, (impact.live, impact.config), what, key.unwrap_or_default(), text)?;
    call.answer(&())
}

fn rename(call: &Call<'_>) -> Answer {
    let (reference, name, flags): (rpc::Domain<'_>, Option<&str>, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, 0)?;
    let wrong = |text: &str| Failure::new(Code::InvalidArgument, From::Domain, text);
    let name = name.ok_or_else(|| wrong("new_name must not be NULL"))?;
    let name = DomainName::new(name).map_err(|error| wrong(&error.to_string()))?;
    // Whoever may only change domains of some names may not take one out of them, or into another's.
    call.permit_name(&name, target.domain.uuid)?;
    let (manager, uuid) = target.parts();
    manager.rename(uuid, &name)?;
    call.answer(&0_i32)
}
