//! Who connects, and how many may.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::connection::Client;
use super::queue::{Budget, Queue};
use super::share::{Seats, Waiters};
use super::socket::Socket;
use super::threads::Threads;
use super::tidy::Tidy;
use crate::access::Identity;
use crate::remote::{Events, Service, Session};
use crate::sys::handed::Closers;
use crate::sys::listen;

/// What every client shares.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) service: Arc<Service>,
    pub(super) events: Arc<Events>,
    pub(super) clients: Arc<Semaphore>,
    pub(super) seats: Arc<Seats>,
    pub(super) threads: Arc<Threads>,
    pub(super) waiters: Arc<Waiters>,
    pub(super) calls: u32,
    pub(super) sending: Arc<Budget>,
    pub(super) partial: Arc<Budget>,
    pub(super) closers: Arc<Closers>,
    pub(super) last: AtomicU64,
    pub(super) tidy: Arc<Tidy>,
}

/// Takes clients on one socket, for ever.
pub(super) async fn accept(shared: Arc<Shared>, listener: UnixListener, read_only: bool) {
    loop {
        // While there are as many clients as are allowed, others wait to be taken.
        let Ok(place) = shared.clients.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Such as too many open files: that passes when a client leaves.
                tracing::warn!(%error, "cannot take a client");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let (identity, stream) = match identity(&stream).and_then(|found| Ok((found, stream.into_std()?))) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "a client whom the kernel does not name");
                continue;
            }
        };
        let threads = shared.threads.clone();
        threads.of(identity.uid).spawn(serve(shared.clone(), identity, stream, read_only, place));
    }
}

async fn serve(
    shared: Arc<Shared>,
    identity: Identity,
    stream: std::os::unix::net::UnixStream,
    read_only: bool,
    _place: OwnedSemaphorePermit,
) {
    let Some(_seat) = shared.seats.take(identity.uid) else {
        return tracing::info!(uid = identity.uid, "has as many clients as it may (daemon.clients_per_user)");
    };
    let id = shared.last.fetch_add(1, Ordering::Relaxed);
    tracing::debug!(client = id, uid = identity.uid, pid = identity.pid, read_only, "connected");
    let queue = Arc::new(Queue::new(shared.sending.clone()));
    let session = Arc::new(Session::new(id, identity, read_only, queue.clone()));
    shared.events.add(&session);
    match Socket::new(stream) {
        Ok(socket) => Arc::new(Client::new(&shared, session.clone(), queue)).serve(socket).await,
        Err(error) => tracing::warn!(client = id, %error, "cannot wait for what a client says"),
    }
    shared.events.remove(id);
    session.leave();
    shared.tidy.used();
    let service = shared.service.clone();
    let ended = shared.threads.waiting().spawn_blocking(move || service.connection_ended(id)).await;
    if let Err(error) = ended {
        tracing::error!(client = id, %error, "what was to end with a client goes on");
    }
}

fn identity(stream: &UnixStream) -> std::io::Result<Identity> {
    let credentials = stream.peer_cred()?;
    let (gid, groups) = listen::peer_groups(stream)?;
    Ok(Identity { uid: credentials.uid(), gid, groups, pid: credentials.pid().unwrap_or(0) })
}
