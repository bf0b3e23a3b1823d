//! `svirt-labeller`: the privileged process. See `svirt::labeller`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use svirt::daemon::Program;
use svirt::labeller::{Options, enter_session, guarded, run};

const USAGE: &str = "\
Usage: svirt-labeller [--config FILE] [--socket PATH] [--on-demand] [--session] [--ready-fd N]

Applies start plans for svirt: the only part that runs as root. It listens on PATH
(labeller.sock in the run directory) for root and for the uid of uids.frontend.

  --config FILE   configuration (/etc/svirt/svirt.toml)
  --socket PATH   where to listen
  --on-demand     leave some seconds after the last domain and client are gone, and
                  until then start another one whenever this one is killed
  --session       started by an ordinary user: be root in a user namespace of one's own,
                  with the user's subordinate uids and the user's own directories
  --ready-fd N    write a newline to this descriptor once the socket listens

SVIRT_LOG chooses what is logged, such as debug or svirt::labeller=trace.";

fn main() -> ExitCode {
    let program = Program { name: "svirt-labeller", usage: USAGE };
    let (mut socket, mut on_demand, mut session) = (None, false, false);
    let common = program.begin(|option, arguments| {
        match option {
            "socket" => socket = Some(arguments.value()?.into()),
            "on-demand" => on_demand = true,
            "session" => session = true,
            _ => return Ok(false),
        }
        Ok(true)
    });
    let options = match common {
        Ok(common) => {
            Options { config: common.config, socket, on_demand, session, ready: common.ready, store: None }
        }
        Err(code) => return code,
    };
    if options.session
        && let Err(error) = enter_session(options.config.as_deref())
    {
        return program.end(Err(error));
    }
    let served = if on_demand { guarded(options) } else { run(options).map(|()| 0) };
    program.end(served.map(|code| if code == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }))
}
