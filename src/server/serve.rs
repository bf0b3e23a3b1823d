//! Serving: the runtime and everything that runs on it. Nothing here has privilege.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

use super::accept::{Shared, accept};
use super::queue::Budget;
use super::share::{Seats, Waiters};
use super::start::{Prepared, Rules, ServerError, say_ready, step};
use super::threads::Threads;
use super::views;
use crate::access::SharedPolicy;
use crate::remote::{Events, Kind, Service};
use crate::sys::memory;

/// Threads that wait for the disk, the labeller or a supervisor.
pub(super) const WAITERS: usize = 256;

/// Serves until told to stop.
pub(super) fn serve(prepared: Prepared, ready: Option<OwnedFd>) -> Result<(), ServerError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(WAITERS)
        .enable_all()
        .build()
        .map_err(step("start its runtime"))?;
    let served = runtime.block_on(run(prepared, ready));
    // Calls that wait for a start need not be waited for: the labeller finishes or undoes it.
    runtime.shutdown_background();
    served
}

async fn run(prepared: Prepared, ready: Option<OwnedFd>) -> Result<(), ServerError> {
    let Prepared { settings, hostname, policy, rules, sockets, machine } = prepared;
    let daemon = settings.daemon.clone();
    let events = Arc::new(Events::new(policy.clone()));
    let test = views::test(&settings, &hostname, &events)?;
    let service = match machine {
        Ok((kind, machine, store, contents)) => {
            let view = views::machine(kind, settings, machine, store, contents, &events)?;
            Service::new(view, vec![test], policy.clone())
        }
        Err(why) => Service::new(test, Vec::new(), policy.clone()).without(Kind::Session, why),
    };
    let shared = Arc::new(Shared {
        service: Arc::new(service),
        events,
        clients: Arc::new(Semaphore::new(daemon.clients as usize)),
        threads: Arc::new(Threads::current()),
        seats: Arc::new(Seats::new(daemon.clients, daemon.clients_per_user)),
        waiters: Arc::new(Waiters::new()),
        calls: daemon.calls,
        sending: Arc::default(),
        partial: Arc::<Budget>::default(),
        closers: Arc::default(),
        last: AtomicU64::new(1),
        tidy: Arc::default(),
    });
    let mut stop = signal(SignalKind::terminate()).map_err(step("wait for signals"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(step("wait for signals"))?;
    let mut hangup = signal(SignalKind::hangup()).map_err(step("wait for signals"))?;
    let listen = |listener| UnixListener::from_std(listener).map_err(step("listen"));
    tokio::spawn(accept(shared.clone(), listen(sockets.read_write)?, false));
    if let Some(read_only) = sockets.read_only {
        tokio::spawn(accept(shared.clone(), listen(read_only)?, true));
    }
    memory::trim();
    // What is started with the host, and the first look at what runs, use some once more.
    shared.tidy.used();
    let tidy = shared.tidy.clone();
    tokio::spawn(async move { tidy.serve().await });
    say_ready(ready.as_ref());
    drop(ready);
    for view in shared.service.views() {
        tracing::info!(uri = view.uri(), domains = view.domains(), "serves");
    }
    loop {
        tokio::select! {
            _ = stop.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => reload(&rules, &policy),
        }
    }
    tracing::info!("leaving; domains go on");
    Ok(())
}

/// Reads the rules again. Those that cannot be read change nothing.
fn reload(rules: &Rules, policy: &SharedPolicy) {
    match rules.read() {
        Ok(read) => {
            policy.replace(read);
            tracing::info!("has read the rules again");
        }
        Err(error) => tracing::error!(%error, "the rules stay as they were"),
    }
}
