//! Whose a store of UEFI variables is, by its name.

use uuid::Uuid;

use crate::base::DomainUuid;

/// What follows the uuid in the name of a store that was given none.
const SUFFIX: &str = "_VARS.fd";

/// The name of a domain's store where its definition names none.
#[must_use]
pub fn own_name(uuid: DomainUuid) -> String {
    format!("{uuid}{SUFFIX}")
}

/// The domain whose store has this path by its name alone. Any other name says nothing: such a file bears a mark.
#[must_use]
pub fn named_for(path: &str) -> Option<DomainUuid> {
    let name = path.rsplit('/').next()?;
    let uuid = DomainUuid(Uuid::parse_str(name.strip_suffix(SUFFIX)?).ok()?);
    (own_name(uuid) == name).then_some(uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_whose_it_is() {
        let uuid = DomainUuid(Uuid::from_u128(7));
        assert_eq!(named_for(&format!("/place/{}", own_name(uuid))), Some(uuid));
        let upper = "7D1BA4A6-5D1C-4C2E-9B0F-0D5B6F0A9E11_VARS.fd";
        for other in ["/place/a_VARS.fd", "/place/_VARS.fd", upper, "/place/", &format!("{uuid}/x")] {
            assert_eq!(named_for(other), None, "{other}");
        }
    }
}
