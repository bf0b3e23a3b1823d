//! Goes with a start to its end, as the labeller's loop does, but waits.
#![allow(missing_docs, unreachable_pub, reason = "shared by a test and a benchmark")]

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use svirt::labeller::spawn::{self, Forked, Launch, Launched, SpawnError, Stage};
use svirt::sys::process;

/// Returns once both programs are executed; `before_go` runs when the device model waits for the word.
pub fn launch(
    launch: Launch<'_>,
    before_go: &mut dyn FnMut(Forked) -> io::Result<()>,
) -> Result<Launched, SpawnError> {
    let mut launching = spawn::launch(launch)?;
    loop {
        let own = |source| SpawnError::Labeller { action: "wait for", source, path: PathBuf::new() };
        let went = process::readable(launching.fd(), Duration::from_secs(60))
            .map_err(own)
            .and_then(|_| launching.advance())
            .and_then(|stage| {
                if let Stage::Ready(forked) = stage {
                    before_go(forked).map_err(own)?;
                    launching.go()?;
                }
                Ok(stage)
            });
        match went {
            Ok(Stage::Executed) => return launching.launched().ok_or(SpawnError::Died("nobody".into())),
            Ok(_) => {}
            Err(error) => {
                launching.abandon();
                return Err(error);
            }
        }
    }
}
