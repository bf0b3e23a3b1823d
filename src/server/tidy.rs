//! Giving memory back that clients' calls have used: what one of them leaves free stays the daemon's otherwise, however
//! many of them have gone.

use std::time::Duration;

use tokio::sync::Notify;

use crate::sys::memory;

/// How long after a call memory is given back, and the least time between two times: longer than a thread without
/// work stays (10 s), which has some of its own.
const PAUSE: Duration = Duration::from_secs(15);

/// Notes that there may be something to give back. Costs nothing while nobody calls.
#[derive(Debug, Default)]
pub(super) struct Tidy {
    used: Notify,
}

impl Tidy {
    /// Memory was used, and may be free now or soon.
    pub(super) fn used(&self) {
        self.used.notify_one();
    }

    /// Gives memory back for ever, a while after each use.
    pub(super) async fn serve(&self) {
        self.each(PAUSE, memory::give_back).await;
    }

    async fn each(&self, pause: Duration, give_back: fn()) {
        loop {
            self.used.notified().await;
            tokio::time::sleep(pause).await;
            // Much free memory takes milliseconds: whoever needs none of that very heap does not wait for it.
            if let Err(error) = tokio::task::spawn_blocking(give_back).await {
                tracing::error!(%error, "free memory was not given back");
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    use super::*;

    #[test]
    fn memory_is_given_back_after_the_last_use_and_not_while_there_is_none() {
        const SHORT: Duration = Duration::from_millis(50);
        static TIMES: AtomicUsize = AtomicUsize::new(0);
        let times = || TIMES.load(Ordering::Relaxed);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let tidy = Tidy::default();
            let test = async {
                tokio::time::sleep(3 * SHORT).await;
                assert_eq!(times(), 0, "nobody has used any");
                let begin = Instant::now();
                while times() < 2 {
                    tidy.used();
                    tokio::time::sleep(SHORT / 25).await;
                }
                assert!(begin.elapsed() >= 2 * SHORT, "not with each use");
                tidy.used();
                while times() < 3 {
                    tokio::time::sleep(SHORT).await;
                    assert!(begin.elapsed() < 600 * SHORT, "once more after the last use");
                }
                tokio::time::sleep(6 * SHORT).await;
                let last = times();
                assert!(last <= 5);
                tokio::time::sleep(6 * SHORT).await;
                assert_eq!(times(), last, "nobody uses any");
            };
            let count = || {
                TIMES.fetch_add(1, Ordering::Relaxed);
            };
            tokio::select! { () = tidy.each(SHORT, count) => {}, () = test => {} }
        });
    }
}
