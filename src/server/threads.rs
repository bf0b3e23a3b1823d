//! Which thread answers whom: one root, another one everybody else, so that no number of calls of others comes before
//! root's.

use std::io;
use std::sync::OnceLock;

use tokio::runtime::{Builder, Handle};

/// The threads that answer what never waits. A call is answered by the thread that reads it: to hand it to another one
/// would cost more than most answers.
#[derive(Debug)]
pub(super) struct Threads {
    /// Root's, which the daemon itself runs on. It also owns the threads for whatever waits.
    main: Handle,
    /// Everybody else's, started with the first of them.
    others: OnceLock<Handle>,
}

impl Threads {
    /// Those of the runtime that this runs on.
    pub(super) fn current() -> Self {
        Self { main: Handle::current(), others: OnceLock::new() }
    }

    /// What a client of a uid is served on.
    pub(super) fn of(&self, uid: u32) -> &Handle {
        if uid == 0 {
            return &self.main;
        }
        self.others(start)
    }

    /// A start that fails is tried again with the next client: this one alone is served on root's.
    fn others(&self, start: impl FnOnce() -> io::Result<Handle>) -> &Handle {
        if let Some(others) = self.others.get() {
            return others;
        }
        match start() {
            Ok(others) => self.others.get_or_init(|| others),
            Err(error) => {
                tracing::warn!(%error, "cannot start a thread for clients that are not root's");
                &self.main
            }
        }
    }

    /// What is waited on: as many threads as the daemon may have at all.
    pub(super) fn waiting(&self) -> &Handle {
        &self.main
    }
}

fn start() -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name("clients".into())
        .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok(handle)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn root_is_answered_while_the_others_thread_is_busy() {
        let runtime = Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let threads = Threads::current();
            let here = threads.others(|| Err(io::ErrorKind::WouldBlock.into())).id();
            assert_eq!(here, Handle::current().id(), "nobody is turned away");
            let (busy, wait) = std::sync::mpsc::channel::<()>();
            let here = std::thread::current().id();
            let others = threads.of(5).spawn(async move {
                // Until root is through.
                let _ = wait.recv();
                std::thread::current().id()
            });
            assert_eq!(threads.of(0).spawn(async { std::thread::current().id() }).await.unwrap(), here);
            drop(busy);
            let there = others.await.unwrap();
            assert_ne!(there, here);
            let again = threads.of(6).spawn(async { std::thread::current().id() }).await.unwrap();
            assert_eq!(again, there, "one thread for all of them");
        });
    }
}
