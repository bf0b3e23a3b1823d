//! The parent of an on-demand labeller: it starts another one when that one is killed, so that a guest which ends
//! meanwhile is taken back without anybody asking. Nothing reaches it: it opens no socket and reads no file.

use std::io;
use std::time::{Duration, Instant};

use super::own;
use super::run::{LabellerError, Options, run};
use crate::sys::pidfd::{self, Exit};
use crate::sys::process::{self, Child};

/// How many labellers may be killed within [`WITHIN`] before the guard gives up.
const KILLED_MOST: usize = 10;
const WITHIN: Duration = Duration::from_secs(60);

/// Serves like [`run`], in a child that is replaced when a signal ends it. Returns the exit code of the last one.
pub fn guarded(mut options: Options) -> Result<i32, LabellerError> {
    let step = |what: &str| {
        let what = what.to_owned();
        move |error| LabellerError::Step(what, error)
    };
    own::keep_capabilities().map_err(step("give up capabilities"))?;
    let mut killed: Vec<Instant> = Vec::new();
    loop {
        let round = Options {
            config: options.config.clone(),
            socket: options.socket.clone(),
            on_demand: true,
            session: options.session,
            // Whoever waits for the first one hears of its failure by the end of this descriptor.
            ready: options.ready.take(),
        };
        let child = process::fork(|| match run(round) {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("svirt-labeller: {error}");
                1
            }
        })
        .map_err(step("fork"))?;
        match wait(&child).map_err(step("wait for its child"))? {
            // A panic is no decision to leave.
            Some(Exit::Code(code)) if code != process::PANICKED => return Ok(code),
            ended => {
                tracing::error!(pid = child.pid, ?ended, "the labeller died; another one takes over");
                killed.retain(|at| at.elapsed() < WITHIN);
                killed.push(Instant::now());
            }
        }
        if killed.len() > KILLED_MOST {
            tracing::error!("labellers keep being killed; the next svirt command starts another one");
            return Ok(1);
        }
    }
}

fn wait(child: &Child) -> io::Result<Option<Exit>> {
    while !pidfd::wait_ended(&child.pidfd, u16::MAX)? {}
    Ok(pidfd::reap(&child.pidfd))
}
