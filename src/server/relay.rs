//! A display joined with what a client has handed in: bytes both ways, until one side or the client's connection ends.

use tokio::io::copy_bidirectional;
use tokio::net::UnixStream;

use super::connection::Client;
use crate::remote::Relay;

/// Connects to the display, answers the call, and carries bytes.
pub(super) async fn serve(client: &Client, relay: Relay) {
    let header = relay.header;
    // The one that was handed in is dropped last: to close copies of it waits for nobody.
    let (handed, ours) = match client.waiting(move || relay.open()).await {
        Ok(Ok(both)) => both,
        Ok(Err(refusal)) => return client.queue.push(refusal),
        Err(error) => return client.queue.push(client.service.stream_failure(&header, &error.to_string())),
    };
    let watched = |stream: std::os::unix::net::UnixStream| {
        stream.set_nonblocking(true)?;
        UnixStream::from_std(stream)
    };
    let copy = || handed.stream().ok_or(std::io::ErrorKind::InvalidInput)?.try_clone_to_owned();
    match (copy().and_then(|copy| watched(copy.into())), watched(ours)) {
        (Ok(mut theirs), Ok(mut ours)) => {
            client.queue.push(client.service.done(&header));
            // Whoever leaves first ends it; why is nobody's concern.
            let _ = copy_bidirectional(&mut theirs, &mut ours).await;
        }
        (Err(error), _) | (_, Err(error)) => {
            let error = crate::driver::DriverError::Io { what: "to the display".into(), source: error };
            client.queue.push(client.service.late_failure(&header, error));
        }
    }
}
