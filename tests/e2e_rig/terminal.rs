//! A program on a terminal of its own, and what a person types and reads there.
#![allow(clippy::unwrap_used, clippy::panic, dead_code, missing_docs, unreachable_pub)]

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Instant;

use super::{PATIENCE, end_of};

/// A conversation with one program.
pub struct Talk {
    child: Child,
    keys: File,
    screen: Receiver<Vec<u8>>,
    /// Everything that was shown and not yet expected.
    seen: String,
}

impl Talk {
    pub fn new(mut command: Command) -> Self {
        let pty = nix::pty::openpty(None, None).unwrap();
        let side = || Stdio::from(pty.slave.try_clone().unwrap());
        let child = command.stdin(side()).stdout(side()).stderr(side()).spawn().unwrap();
        let keys = File::from(pty.master);
        let mut reader = keys.try_clone().unwrap();
        let (sender, screen) = mpsc::channel();
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut chunk) {
                if sender.send(chunk.get(..length).unwrap().to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, keys, screen, seen: String::new() }
    }

    pub fn types(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until this is shown; takes what stands before it off.
    #[track_caller]
    pub fn shows(&mut self, what: &str) {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.seen.find(what) {
                self.seen.drain(..at + what.len());
                return;
            }
            let left = until.saturating_duration_since(Instant::now());
            match self.screen.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("{what:?} is not shown, but {:?}", self.seen),
            }
        }
    }

    /// The exit code, once it has ended.
    #[track_caller]
    pub fn ends(mut self) -> Option<i32> {
        end_of(&mut self.child)
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }
}
