//! Serving: the runtime and everything that runs on it. Nothing here has privilege.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};

use super::accept::{Shared, accept};
use super::queue::Budget;
use super::start::{Domains, Prepared, ServerError, say_ready, step};
use super::watch;
use crate::manager::Manager;
use crate::remote::{Events, Service};
use crate::store::{Contents, Store};

/// Threads that run what never waits.
const WORKERS: usize = 2;
/// Threads that wait for the disk, the labeller or a supervisor.
const WAITERS: usize = 256;

/// Serves until told to stop.
pub(super) fn serve(
    prepared: Prepared,
    store: Store,
    contents: Contents,
    ready: Option<OwnedFd>,
) -> Result<(), ServerError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(WAITERS)
        .enable_all()
        .build()
        .map_err(step("start its runtime"))?;
    let served = runtime.block_on(run(prepared, store, contents, ready));
    // Calls that wait for a start need not be waited for: the labeller finishes or undoes it.
    runtime.shutdown_background();
    served
}

async fn run(
    prepared: Prepared,
    store: Store,
    contents: Contents,
    ready: Option<OwnedFd>,
) -> Result<(), ServerError> {
    let Prepared { settings, facts, node, policy, sockets, autostarted } = prepared;
    let daemon = settings.daemon.clone();
    let events = Arc::new(Events::new(policy.clone()));
    let (watch, mut watched) = mpsc::unbounded_channel();
    let manager = Manager::new(settings, facts, store, events.clone(), move |uuid, id| {
        // Once nobody receives, the daemon is ending.
        let _ = watch.send((uuid, id));
    });
    let manager: Domains = Arc::new(manager);
    manager.recover(contents);
    start_survey(&manager, autostarted)?;
    let waiting = manager.clone();
    tokio::spawn(async move {
        while let Some((uuid, id)) = watched.recv().await {
            tokio::spawn(watch::wait(waiting.clone(), uuid, id));
        }
    });
    let shared = Arc::new(Shared {
        service: Arc::new(Service::new(manager.clone(), policy, node)),
        events,
        manager,
        clients: Arc::new(Semaphore::new(daemon.clients as usize)),
        calls: daemon.calls,
        sending: Arc::default(),
        partial: Arc::<Budget>::default(),
        last: AtomicU64::new(1),
    });
    let mut stop = signal(SignalKind::terminate()).map_err(step("wait for signals"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(step("wait for signals"))?;
    let listen = |listener| UnixListener::from_std(listener).map_err(step("listen"));
    tokio::spawn(accept(shared.clone(), listen(sockets.read_write)?, false));
    if let Some(read_only) = sockets.read_only {
        tokio::spawn(accept(shared.clone(), listen(read_only)?, true));
    }
    say_ready(ready.as_ref());
    drop(ready);
    tracing::info!(domains = shared.manager.all().len(), "serves");
    tokio::select! { _ = stop.recv() => {} _ = interrupt.recv() => {} }
    tracing::info!("leaving; domains go on");
    Ok(())
}

/// Finds what runs before the first client asks, and goes on looking.
fn start_survey(manager: &Domains, mut autostarted: std::fs::File) -> Result<(), ServerError> {
    let mut labeller = None;
    if let Err(error) = watch::once(manager, &mut labeller) {
        tracing::warn!(%error, "cannot ask the labeller yet what runs");
    }
    let starter = manager.clone();
    let first = move || {
        if autostarted.metadata().is_ok_and(|found| found.len() == 0) {
            starter.autostart();
            if let Err(error) = autostarted.write_all(b"done\n") {
                tracing::warn!(%error, "what was started with the host would be again");
            }
        }
    };
    watch::survey(manager, first).map_err(step("start its survey"))
}
