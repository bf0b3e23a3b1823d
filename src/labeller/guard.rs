//! The parent of an on-demand labeller: it starts another one when that one is killed, so that a guest which ends
//! meanwhile is taken back without anybody asking. Nothing but its child reaches it: it opens no socket and reads no
//! file. For that child it holds descriptors ([`store`]), which the next one inherits.

use std::cell::RefCell;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::own;
use super::run::{LabellerError, Options, run};
use super::store::{self, Held, Keeper};
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
    own::raise_descriptors().map_err(step("raise its limit of descriptors"))?;
    let held = RefCell::new(Held::new());
    let mut killed: Vec<Instant> = Vec::new();
    loop {
        let (keeper, mut store) = store::pair().map_err(step("make a socket"))?;
        let mut round = Options {
            config: options.config.clone(),
            socket: options.socket.clone(),
            on_demand: true,
            session: options.session,
            // Whoever waits for the first one hears of its failure by the end of this descriptor.
            ready: options.ready.take(),
            store: None,
        };
        let guard = keeper.as_fd();
        let child = process::fork(|| {
            process::close_inherited(guard);
            store.inherit(&held);
            round.store = Some(store);
            match run(round) {
                Ok(()) => 0,
                Err(error) => {
                    eprintln!("svirt-labeller: {error}");
                    1
                }
            }
        })
        .map_err(step("fork"))?;
        match wait(&child, &keeper, &held).map_err(step("wait for its child"))? {
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

/// Waits for the child's end and does meanwhile what it asks.
fn wait(child: &Child, keeper: &Keeper, held: &RefCell<Held>) -> io::Result<Option<Exit>> {
    let mut hears = true;
    loop {
        let mut fds = vec![PollFd::new(child.pidfd.as_fd(), PollFlags::POLLIN)];
        if hears {
            fds.push(PollFd::new(keeper.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        // What it said before it ended counts.
        hears = hears && keeper.hear(held);
        if pidfd::has_ended(&child.pidfd)? {
            return Ok(pidfd::reap(&child.pidfd));
        }
    }
}
