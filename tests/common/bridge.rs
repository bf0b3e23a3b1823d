//! A bridge of this host with an address, removed at the end.
#![allow(clippy::unwrap_used, dead_code, missing_docs, unreachable_pub)]

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

static BRIDGES: AtomicU32 = AtomicU32::new(0);

#[derive(Debug)]
pub struct Bridge {
    pub name: String,
    /// The first three bytes of its network.
    pub network: String,
}

impl Bridge {
    /// `None`, and said so, where this run cannot make one.
    pub fn new() -> Option<Self> {
        let (pid, number) = (std::process::id(), BRIDGES.fetch_add(1, Ordering::Relaxed));
        let bridge = Self {
            name: format!("svbr{pid}.{number}"),
            network: format!("10.{}.{}", 100 + (pid / 256 + number) % 100, pid % 256),
        };
        let ip = |words: &[&str]| Command::new("ip").args(words).status().is_ok_and(|done| done.success());
        if !ip(&["link", "add", &bridge.name, "type", "bridge"]) {
            println!("skipped: no bridge can be made here");
            return None;
        }
        assert!(ip(&["address", "add", &format!("{}.1/24", bridge.network), "dev", &bridge.name]));
        assert!(ip(&["link", "set", &bridge.name, "mtu", "1400", "up"]));
        Some(bridge)
    }

    /// Its ports.
    pub fn ports(&self) -> Vec<String> {
        let entries = std::fs::read_dir(format!("/sys/class/net/{}/brif", self.name)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "delete", &self.name]).status();
    }
}

/// Whether the host has an interface of this name.
pub fn is_interface(name: &str) -> bool {
    std::path::Path::new("/sys/class/net").join(name).exists()
}
