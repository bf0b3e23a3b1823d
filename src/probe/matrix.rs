//! Runs every attack where the device model is, with nothing in its way, and behind each layer alone.

use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use serde::Serialize;

use super::catalogue::{ATTACKS, Aim, Attack, Attacker, Targets};
use super::place::{Layer, Place};
use crate::sys::attack::{self, ChildEnd};
use crate::sys::process;

/// Codes that a child of ours answers with besides errno numbers, which end below 200.
const NOT_HERE: u8 = 253;
const STEP_FAILED: u8 = 254;
/// Seconds that one attack may take.
const PATIENCE: u32 = 5;

/// What became of one try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "result", content = "detail")]
pub enum Outcome {
    /// A signal killed the attacker; SIGSYS is seccomp's.
    Killed(i32),
    /// There is nothing to aim at on this host.
    NotHere,
    /// An error number.
    Refused(i32),
    /// Nothing stopped it.
    Through,
    /// The attacker could not be put in its place, so the try says nothing.
    Unplaced,
}

impl Outcome {
    fn of(end: ChildEnd) -> Self {
        match end {
            ChildEnd::Signal(signal) => Self::Killed(signal),
            ChildEnd::Code(0) => Self::Through,
            ChildEnd::Code(NOT_HERE) => Self::NotHere,
            ChildEnd::Code(STEP_FAILED | u8::MAX) => Self::Unplaced,
            ChildEnd::Code(errno) => Self::Refused(i32::from(errno)),
        }
    }

    /// Whether the attack was stopped. Any other signal may be the target's, or the end of our patience.
    #[must_use]
    pub fn stopped(self) -> bool {
        matches!(self, Self::Killed(libc::SIGSYS) | Self::Refused(_))
    }
}

/// One attack and how it went.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The attack's short name.
    pub id: &'static str,
    /// At what it is aimed.
    pub aim: Aim,
    /// What was tried.
    pub title: &'static str,
    /// What is won.
    pub gain: &'static str,
    /// What closes the hole where svirt does not run the guest.
    pub closes: &'static str,
    /// With no layer at all: the positive control.
    pub control: Outcome,
    /// With every layer of the device model.
    pub placed: Outcome,
    /// Layers that stop it even alone.
    pub stopped_by: Vec<Layer>,
    /// Layers that the device model has and the attacker could not take on: what they would stop is not known.
    pub untried: Vec<Layer>,
    /// What it comes to.
    pub verdict: Verdict,
}

/// What a row comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Stopped, and the control shows that it works where nothing stops it.
    Stopped,
    /// It got through.
    Through,
    /// It could not be tried here, or the control failed too: this says nothing.
    Unproven,
}

/// A layer that the device model has and the attacker could not take on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Untried {
    /// Which.
    pub layer: Layer,
    /// Why.
    pub why: String,
}

/// Judges one attack from its two tries; `whole` says whether the attacker had every layer of the device model.
#[must_use]
pub fn verdict(control: Outcome, placed: Outcome, whole: bool) -> Verdict {
    match (control, placed) {
        // A layer that was not tried may stop it.
        (_, Outcome::Through) if !whole => Verdict::Unproven,
        // What gets through got through, whatever the control says.
        (_, Outcome::Through) => Verdict::Through,
        // What some of the layers stop, all of them do.
        (Outcome::Through, placed) if placed.stopped() => Verdict::Stopped,
        _ => Verdict::Unproven,
    }
}

/// Runs the whole catalogue. The second value names the layers that could not be taken on.
pub fn run(place: &Place, targets: &Targets) -> io::Result<(Vec<Row>, Vec<Untried>)> {
    let mut present = Vec::new();
    let mut untried = Vec::new();
    for layer in Layer::ALL.into_iter().filter(|layer| place.has(*layer)) {
        match refusal(place, layer)? {
            None => present.push(layer),
            Some(why) => untried.push(Untried { layer, why }),
        }
    }
    let rows = ATTACKS.iter().map(|attack| row(attack, place, targets, &present, &untried));
    Ok((rows.collect::<io::Result<_>>()?, untried))
}

/// Why a layer cannot be taken on, found out by a child that does nothing else.
fn refusal(place: &Place, layer: Layer) -> io::Result<Option<String>> {
    if let Some(why) = place.closed(layer) {
        return Ok(Some(why));
    }
    let end = attack::in_child(|| {
        attack::alarm(PATIENCE);
        let tried = match layer {
            Layer::Cgroup => place.join_cgroup(),
            Layer::Namespaces => place.enter(),
            _ => place.take_on(&[layer]),
        };
        code(tried)
    })?;
    Ok(match Outcome::of(end) {
        Outcome::Through => None,
        Outcome::Refused(errno) => Some(Errno::from_raw(errno).desc().to_lowercase()),
        other => Some(format!("{other:?}").to_lowercase()),
    })
}

fn row(
    attack: &Attack,
    place: &Place,
    targets: &Targets,
    present: &[Layer],
    untried: &[Untried],
) -> io::Result<Row> {
    let control = attempt(attack, place, targets, &[])?;
    let placed = attempt(attack, place, targets, present)?;
    let mut stopped_by = Vec::new();
    if control == Outcome::Through {
        for layer in present {
            if attempt(attack, place, targets, &[*layer])?.stopped() {
                stopped_by.push(*layer);
            }
        }
    }
    Ok(Row {
        id: attack.id,
        aim: attack.aim,
        title: attack.title,
        gain: attack.gain,
        closes: attack.closes,
        control,
        placed,
        stopped_by,
        untried: untried.iter().map(|untried| untried.layer).collect(),
        verdict: verdict(control, placed, untried.is_empty()),
    })
}

/// One try: a child takes on the layers, and its own child (which is in the pid namespace) attacks.
fn attempt(attack: &Attack, place: &Place, targets: &Targets, layers: &[Layer]) -> io::Result<Outcome> {
    // Namespaces come first: what follows must hold for the grandchild as well, and the filters may refuse a fork.
    let end = attack::in_child(|| {
        attack::alarm(PATIENCE);
        // The attacker takes the target's uid, which must not get at the terminal through it.
        if process::leave_terminal().is_err() {
            return STEP_FAILED;
        }
        let prepared = attack.prepare(targets);
        if layers.contains(&Layer::Cgroup) && place.join_cgroup().is_err() {
            return STEP_FAILED;
        }
        let elsewhere = layers.contains(&Layer::Namespaces);
        if elsewhere && place.enter().is_err() {
            return STEP_FAILED;
        }
        let attacker = Attacker {
            targets,
            careful: (elsewhere && !layers.contains(&Layer::Ids)).then(|| place.proc()),
            own_numbers: elsewhere && place.own_numbers(),
            proc: place.proc(),
            prepared: prepared.as_ref().map(AsFd::as_fd),
        };
        let body = || {
            attack::alarm(PATIENCE);
            if place.take_on(layers).is_err() {
                return STEP_FAILED;
            }
            code((attack.run)(&attacker))
        };
        let inner = if attack.executes() { attack::in_traced_child(body) } else { attack::in_child(body) };
        match inner {
            Ok(ChildEnd::Code(code)) => code,
            // Told apart from an errno by the parent, which sees the same signal.
            Ok(ChildEnd::Signal(signal)) => die_of(signal),
            Err(_) => STEP_FAILED,
        }
    })?;
    Ok(Outcome::of(end))
}

/// Encodes a try's result as an exit code.
fn code(result: io::Result<()>) -> u8 {
    match result {
        Ok(()) => 0,
        Err(error) => match error.raw_os_error() {
            Some(errno) => u8::try_from(errno).ok().filter(|code| *code < NOT_HERE).unwrap_or(STEP_FAILED),
            None if error.kind() == io::ErrorKind::Unsupported => NOT_HERE,
            // A time-out of ours: the connection was not refused but swallowed.
            None if error.kind() == io::ErrorKind::TimedOut => {
                u8::try_from(Errno::ETIMEDOUT as i32).unwrap_or(STEP_FAILED)
            }
            None => STEP_FAILED,
        },
    }
}

/// Ends this process by the signal that ended its child.
fn die_of(signal: i32) -> u8 {
    // The parent then sees the same end; if raising fails, the try counts for nothing.
    let _ = attack::die_of(signal);
    STEP_FAILED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gets_through_is_through_whatever_the_control_says() {
        for control in [Outcome::Through, Outcome::Refused(1), Outcome::NotHere, Outcome::Unplaced] {
            assert_eq!(verdict(control, Outcome::Through, true), Verdict::Through);
        }
    }

    #[test]
    fn a_refusal_proves_nothing_without_a_control() {
        assert_eq!(verdict(Outcome::Refused(1), Outcome::Refused(1), true), Verdict::Unproven);
        assert_eq!(verdict(Outcome::NotHere, Outcome::Refused(1), true), Verdict::Unproven);
        assert_eq!(verdict(Outcome::Through, Outcome::Unplaced, true), Verdict::Unproven);
        assert_eq!(verdict(Outcome::Through, Outcome::Refused(13), true), Verdict::Stopped);
        assert_eq!(verdict(Outcome::Through, Outcome::Killed(31), true), Verdict::Stopped);
        assert_eq!(
            verdict(Outcome::Through, Outcome::Killed(9), true),
            Verdict::Unproven,
            "the target may have"
        );
        assert_eq!(verdict(Outcome::Through, Outcome::Killed(14), true), Verdict::Unproven, "our own alarm");
    }

    #[test]
    fn a_layer_that_was_not_tried_may_stop_what_got_through_and_lets_nothing_through() {
        assert_eq!(verdict(Outcome::Through, Outcome::Through, false), Verdict::Unproven);
        assert_eq!(verdict(Outcome::Through, Outcome::Refused(13), false), Verdict::Stopped);
    }

    #[test]
    fn every_attack_has_its_own_name() {
        let names: std::collections::BTreeSet<_> = ATTACKS.iter().map(|attack| attack.id).collect();
        assert_eq!(names.len(), ATTACKS.len());
        assert!(ATTACKS.len() >= 20);
    }

    #[test]
    fn codes_survive_the_way_through_an_exit_status() {
        assert_eq!(Outcome::of(ChildEnd::Code(code(Ok(())))), Outcome::Through);
        let refused = code(Err(io::Error::from_raw_os_error(13)));
        assert_eq!(Outcome::of(ChildEnd::Code(refused)), Outcome::Refused(13));
        let absent = code(Err(io::Error::new(io::ErrorKind::Unsupported, "x")));
        assert_eq!(Outcome::of(ChildEnd::Code(absent)), Outcome::NotHere);
    }
}
