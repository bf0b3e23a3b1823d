//! How long a client has said nothing: one that answers pings is pinged, and one that no longer does is let go.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// How often a client that answers pings is pinged while it is silent.
pub(super) const PING_EVERY: Duration = Duration::from_secs(5);
/// How many pings may go unanswered.
const PINGS_MAX: u32 = 5;

/// The silence of one client. A client that is never pinged has no timer, and one that talks does not set it anew with
/// each word: it runs out now and then, and is set to when the client was last heard.
#[derive(Debug)]
pub(super) struct Silence {
    every: Duration,
    since: Instant,
    timer: Option<Pin<Box<Sleep>>>,
    pings: u32,
    waited: bool,
}

/// What ended the waiting.
#[derive(Debug)]
pub(super) enum Heard {
    /// The client has said something.
    Done(io::Result<usize>),
    /// It is to be pinged.
    Nothing,
    /// It has not answered for too long.
    TooLong,
}

impl Silence {
    /// From now on.
    pub(super) fn new(every: Duration) -> Self {
        Self { every, since: Instant::now(), timer: None, pings: 0, waited: false }
    }

    /// Waits until `read` has something; `pinged` says whether the client would answer a ping.
    pub(super) async fn broken(
        &mut self,
        pinged: bool,
        mut read: impl FnMut(&mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Heard {
        poll_fn(|context| {
            if let Poll::Ready(done) = read(context) {
                self.since = Instant::now();
                self.pings = 0;
                return Poll::Ready(Heard::Done(done));
            }
            self.waited = true;
            if !pinged || self.poll_timer(context).is_pending() {
                return Poll::Pending;
            }
            self.since = Instant::now();
            self.pings += 1;
            Poll::Ready(if self.pings > PINGS_MAX { Heard::TooLong } else { Heard::Nothing })
        })
        .await
    }

    /// Ready once nothing was heard for as long as it may be.
    fn poll_timer(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let until = self.since + self.every;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        while timer.as_mut().poll(context).is_ready() {
            if Instant::now() >= until {
                return Poll::Ready(());
            }
            timer.as_mut().reset(until);
        }
        Poll::Pending
    }

    /// Whether anything was waited for since this was asked last.
    pub(super) fn was_waited_for(&mut self) -> bool {
        std::mem::take(&mut self.waited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is heard of a client whose words are these, one for each time that it is listened to.
    async fn heard(silence: &mut Silence, pinged: bool, words: &[Poll<usize>]) -> String {
        let mut words = words.iter();
        let read = |context: &mut Context<'_>| match words.next() {
            Some(Poll::Pending) => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Poll::Ready(count)) => Poll::Ready(Ok(*count)),
            None => Poll::Pending,
        };
        format!("{:?}", silence.broken(pinged, read).await)
    }

    #[tokio::test]
    async fn who_answers_no_ping_is_let_go_and_whoever_talks_is_not() {
        let mut silence = Silence::new(Duration::from_millis(1));
        for _ in 0..PINGS_MAX {
            assert_eq!(heard(&mut silence, true, &[]).await, "Nothing");
        }
        assert_eq!(heard(&mut silence, true, &[Poll::Ready(5)]).await, "Done(Ok(5))");
        for _ in 0..PINGS_MAX {
            assert_eq!(heard(&mut silence, true, &[]).await, "Nothing");
        }
        assert_eq!(heard(&mut silence, true, &[]).await, "TooLong");
    }

    #[tokio::test]
    async fn a_client_that_answers_no_pings_gets_none_and_has_no_timer() {
        let mut silence = Silence::new(Duration::ZERO);
        assert_eq!(
            heard(&mut silence, false, &[Poll::Pending, Poll::Pending, Poll::Ready(1)]).await,
            "Done(Ok(1))"
        );
        assert!(silence.timer.is_none());
    }

    #[tokio::test]
    async fn what_was_there_already_was_not_waited_for() {
        let mut silence = Silence::new(PING_EVERY);
        heard(&mut silence, true, &[Poll::Ready(1)]).await;
        assert!(!silence.was_waited_for());
        heard(&mut silence, true, &[Poll::Pending, Poll::Ready(1)]).await;
        assert!(silence.was_waited_for());
        assert!(!silence.was_waited_for(), "only once");
    }
}
