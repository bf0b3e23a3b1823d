//! Passwords of displays: told to a supervisor once, by whoever starts or changes a domain, and by it to QEMU. They are in
//! no plan, and so in no journal, no command line and nothing that shows a plan.

use serde::{Deserialize, Serialize};

use super::supervisor::Graphics;
use crate::base::Secret;

/// The most displays of one domain that have a password: one of each kind.
pub const PASSWORDS_MAX: usize = 2;

/// What a display asks of those who come to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Password {
    /// Which display: QEMU has one of a kind.
    pub protocol: Graphics,
    /// The password; an empty one lets nobody in.
    #[serde(with = "crate::base::in_clear")]
    pub secret: Secret,
    /// What becomes of those who are connected; QEMU's own choice is to keep them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connected: Option<Connected>,
    /// When it is good no longer, in seconds since the epoch; never where there is nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

/// What becomes of those who are connected when a password is set, in QEMU's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Connected {
    /// They have to go.
    Disconnect,
    /// As long as there are any, nothing is set.
    Fail,
    /// They stay.
    Keep,
}

impl Connected {
    /// libvirt's words, which are QEMU's.
    pub const WORDS: [(&'static str, Self); 3] =
        [("disconnect", Self::Disconnect), ("fail", Self::Fail), ("keep", Self::Keep)];
}

impl Password {
    /// The most bytes of a password: what VNC's cipher has for a key, and what SPICE's server has room for.
    #[must_use]
    pub fn most(protocol: Graphics) -> usize {
        match protocol {
            Graphics::Spice => 60,
            Graphics::Vnc => 8,
        }
    }

    /// Whether it is one that its display can have.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.secret.bytes() <= Self::most(self.protocol)
            && !self.secret.reveal().contains('\0')
            && (self.protocol == Graphics::Spice || matches!(self.connected, None | Some(Connected::Keep)))
    }

    /// When QEMU lets nobody in with it any longer: an empty one is never good.
    #[must_use]
    pub fn expiry(&self) -> Option<u64> {
        if self.secret.is_empty() { Some(0) } else { self.until }
    }
}

/// Whether these can be those of one domain.
#[must_use]
pub fn are_of_one_domain(passwords: &[Password]) -> bool {
    let twice = matches!(passwords, [one, other] if one.protocol == other.protocol);
    passwords.len() <= PASSWORDS_MAX && !twice && passwords.iter().all(Password::is_bounded)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(protocol: Graphics, secret: &str) -> Password {
        Password { protocol, secret: Secret::new(secret), connected: None, until: Some(7) }
    }

    #[test]
    fn a_password_fits_its_display() {
        assert!(of(Graphics::Vnc, "12345678").is_bounded() && !of(Graphics::Vnc, "123456789").is_bounded());
        // Bytes count, not letters.
        assert!(!of(Graphics::Vnc, "ääääx").is_bounded());
        assert!(of(Graphics::Spice, &"x".repeat(60)).is_bounded());
        assert!(!of(Graphics::Spice, &"x".repeat(61)).is_bounded());
        assert!(!of(Graphics::Spice, "a\0").is_bounded());
        let fails = |protocol| Password { connected: Some(Connected::Fail), ..of(protocol, "a") };
        assert!(fails(Graphics::Spice).is_bounded() && !fails(Graphics::Vnc).is_bounded());
    }

    #[test]
    fn a_domain_has_one_of_a_kind() {
        let (vnc, spice) = (of(Graphics::Vnc, "a"), of(Graphics::Spice, "b"));
        assert!(are_of_one_domain(&[]) && are_of_one_domain(&[vnc.clone(), spice.clone()]));
        assert!(!are_of_one_domain(&[vnc.clone(), vnc.clone()]));
        assert!(!are_of_one_domain(&[vnc.clone(), spice, vnc]));
    }

    #[test]
    fn an_empty_one_is_never_good() {
        assert_eq!(of(Graphics::Vnc, "").expiry(), Some(0));
        assert_eq!(of(Graphics::Vnc, "a").expiry(), Some(7));
        assert_eq!(Password { until: None, ..of(Graphics::Vnc, "a") }.expiry(), None);
    }

    #[test]
    fn it_travels_whole_and_shows_nothing() {
        let one = of(Graphics::Spice, "geheim");
        let text = serde_json::to_string(&one).unwrap();
        assert_eq!(text, r#"{"protocol":"spice","secret":"geheim","until":7}"#);
        assert_eq!(serde_json::from_str::<Password>(&text).unwrap(), one);
        assert!(!format!("{one:?}").contains("geheim"));
    }
}
