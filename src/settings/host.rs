//! What the host keeps for itself and for whom it listens: xend's properties, with the defaults that their review
//! asked for.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

/// The longest name in the domain name system, in bytes.
const NAME_MAX: usize = 253;

/// `[host]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Host {
    /// Whether a device model that crashes may leave a core dump, the guest's memory in it (`enable-dump`).
    pub enable_dump: bool,
    /// Bytes of the host's memory that no guest gets (`dom0-min-mem`).
    pub min_memory: u64,
    /// The host's own CPUs, counted from CPU 0, that no guest runs on; 0 is none (`dom0-cpus`).
    pub cpus: u32,
    /// Whether unix sockets are listened on for clients (`xend-unix-server`).
    pub unix_server: bool,
}

/// `[relocation]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Relocation {
    /// Whether other hosts may send domains here (`xend-relocation-server`).
    pub server: bool,
    /// The address that is listened on (`xend-relocation-address`).
    pub address: IpAddr,
    /// The port that is listened on (`xend-relocation-port`).
    pub port: u16,
    /// Who may send: addresses, prefixes, names of certificates; empty admits nobody (`xend-relocation-hosts-allow`).
    pub hosts_allow: Vec<HostPattern>,
}

impl Default for Host {
    fn default() -> Self {
        // 196 MiB is xend's own default for dom0.
        Self { enable_dump: false, min_memory: 196 << 20, cpus: 0, unix_server: true }
    }
}

impl Default for Relocation {
    fn default() -> Self {
        // 8002 is xend's own port.
        Self { server: false, address: IpAddr::V4(Ipv4Addr::LOCALHOST), port: 8002, hosts_allow: Vec::new() }
    }
}

/// Who may send a domain: an address, a prefix, or a name that the peer's certificate must bear.
///
/// A name is never looked up: what an address resolves back to is told by whoever owns the address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum HostPattern {
    /// `192.0.2.7` or `2001:db8::/32`: the first bits of a peer's address.
    Address(IpAddr, u8),
    /// `host.example.com`, or `*.example.com` for each name with one label more.
    Certificate(String),
}

impl TryFrom<String> for HostPattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = |why: &str| Err(format!("{text:?} is no host pattern: {why}"));
        let (address, bits) = text.split_once('/').map_or((text.as_str(), None), |(a, b)| (a, Some(b)));
        let Ok(address) = address.parse::<IpAddr>() else {
            return if bits.is_some() {
                wrong("what stands before / is no address")
            } else {
                certificate(text.clone())
            };
        };
        let all = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits.map(str::parse::<u8>) {
            None => all,
            Some(Ok(bits)) if (1..=all).contains(&bits) => bits,
            Some(Ok(0)) => return wrong("it admits every address"),
            Some(_) => return wrong("the prefix is longer than the address"),
        };
        if address.is_unspecified() {
            return wrong("no peer has this address");
        }
        if first_bits(address, bits) != first_bits(address, all) {
            return wrong("bits are set after the prefix");
        }
        Ok(Self::Address(address, bits))
    }
}

/// A name, or `*.` and a name of at least two labels.
fn certificate(text: String) -> Result<HostPattern, String> {
    let wrong = |why: &str| Err(format!("{text:?} is no host pattern: {why}"));
    let name = text.strip_prefix("*.").unwrap_or(&text);
    let labels: Vec<&str> = name.split('.').collect();
    let good = |label: &&str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() > NAME_MAX || !labels.iter().all(good) {
        return wrong(
            "write an address, a prefix, or the name in a certificate; regular expressions are not read",
        );
    }
    if labels.last().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit())) {
        return wrong("it looks like an address and is none");
    }
    if name.len() < text.len() && labels.len() < 2 {
        return wrong("it admits every name of a top-level domain");
    }
    Ok(HostPattern::Certificate(text.to_ascii_lowercase()))
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> Self {
        match pattern {
            HostPattern::Address(address @ IpAddr::V4(_), 32) | HostPattern::Address(address, 128) => {
                address.to_string()
            }
            HostPattern::Address(address, bits) => format!("{address}/{bits}"),
            HostPattern::Certificate(name) => name,
        }
    }
}

/// The first `bits` of an address, the others 0.
fn first_bits(address: IpAddr, bits: u8) -> u128 {
    let (number, all) = match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    };
    let dropped = u32::from(all - bits.min(all));
    number.checked_shr(dropped).unwrap_or(0).checked_shl(dropped).unwrap_or(0)
}

impl Relocation {
    /// The first setting that makes no sense, and why.
    pub(super) fn complaint(&self) -> Option<(String, String)> {
        if self.port == 0 {
            return Some(("relocation.port".into(), "0 is no port".into()));
        }
        if self.server && !self.address.is_loopback() && self.hosts_allow.is_empty() {
            let wrong = format!(
                "{} is reached from other hosts, and relocation.hosts_allow names none that may; name them, or listen on 127.0.0.1",
                self.address
            );
            return Some(("relocation.address".into(), wrong));
        }
        None
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> HostPattern {
        HostPattern::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn patterns_are_addresses_prefixes_and_names() {
        for text in ["192.0.2.7", "192.0.2.0/24", "2001:db8::/32", "::1", "host.example.com", "*.example.com"]
        {
            assert_eq!(String::from(pattern(text)), text);
        }
        assert_eq!(String::from(pattern("192.0.2.7/32")), "192.0.2.7");
        for text in [
            "",
            "*",
            "*.com",
            "^localhost$",
            ".*",
            "0.0.0.0",
            "0.0.0.0/0",
            "::/0",
            "192.0.2.7/24",
            "192.0.2.300",
            "192.0.2.0/33",
            "a..b",
            "-a.example",
            "host.example.com/24",
            "a b",
            "*.*.example.com",
            "host.*.com",
            "[::1]",
        ] {
            assert!(HostPattern::try_from(text.to_owned()).is_err(), "{text:?}");
        }
    }
}
