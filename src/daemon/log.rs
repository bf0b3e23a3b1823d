//! The log of a daemon: standard error, one harmless line an event.

use std::io::{self, Write};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Sends events to standard error, those that `SVIRT_LOG` chooses.
///
/// By target and level only: choosing by a span's fields would put a library for regular expressions into every
/// process, the labeller too.
pub(super) fn to_stderr() {
    let wanted = std::env::var("SVIRT_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let wanted = wanted.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let lines = tracing_subscriber::fmt::layer().with_writer(|| Log).with_ansi(false);
    tracing_subscriber::registry().with(lines).with(wanted).init();
}

/// What clients and supervisors said may be in an event, and neither ends the line nor reaches the terminal of who
/// reads the log.
struct Log;

impl Write for Log {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(&one_line(event))?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn one_line(event: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(event);
    let plain = |c: char| if c.is_control() && c != '\t' { ' ' } else { c };
    let mut line: String = text.trim_end_matches('\n').chars().map(plain).collect();
    line.push('\n');
    line.into_bytes()
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_event_is_one_harmless_line() {
        let line = super::one_line("a\x1b[2J\0b\nERROR forged\u{9b}1m\n".as_bytes());
        assert_eq!(line, b"a [2J b ERROR forged 1m\n");
    }
}
