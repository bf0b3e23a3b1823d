//! Says of any filter program what it lets through: every path that some arguments could take is walked.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde::{Deserialize, Serialize};
use syscalls::Sysno;

use super::bpf::{
    RET_ACTION, RET_ALLOW, RET_ERRNO, RET_KILL_PROCESS, RET_KILL_THREAD, RET_LOG, RET_TRACE, RET_TRAP,
    RET_USER_NOTIF,
};
use super::interpret::{Operand, ProgramError, Source, Step, calculate, compare, decode, longest_path};
use super::{ARCH_I386, ARCH_X86_64, X32_BIT};
use crate::privsep::confinement::SeccompProgram;

/// States walked for one system call before the answer is "anything".
const BUDGET: usize = 20_000;
/// The same for all calls and filters together: a process may bring many filters that are slow to walk.
const BUDGET_ALL: usize = 4_000_000;
/// How many x32 numbers are looked at; the kernel's table ends at 547.
const X32_NUMBERS: u32 = 600;
/// How many numbers above the last known one are looked at.
const NEWER_NUMBERS: u32 = 64;

/// What a stack of filters lets through, by system call name, each list sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// Made whatever the arguments.
    pub allowed: Vec<String>,
    /// Made for some arguments, at once.
    pub allowed_conditionally: Vec<String>,
    /// Put before the supervisor for some or all arguments, and never made without it.
    pub launch: Vec<String>,
    /// Always refused, by error number.
    pub errno: BTreeMap<u16, Vec<String>>,
    /// The caller is always killed.
    pub kill: Vec<String>,
    /// Refused or worse in several ways, depending on arguments, but never made; or left to a tracer or handler.
    pub other: Vec<String>,
    /// Whether i386 calls kill.
    pub i386_killed: bool,
    /// Whether x32 calls kill or fail.
    pub x32_refused: bool,
    /// Whether numbers above the table fail or kill.
    pub newer_refused: bool,
    /// Instructions of all filters together.
    pub instructions: usize,
    /// The longest paths of all filters together.
    pub longest_path: usize,
}

/// What a filter may answer, as the kernel's actions in falling order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    Kill,
    Trap,
    Errno(u16),
    Notify,
    Trace,
    Allow,
}

/// Judges one filter.
pub fn judge(program: &SeccompProgram) -> Result<Judgement, ProgramError> {
    judge_stack(std::slice::from_ref(program))
}

/// Judges filters that are loaded together: the strictest answer counts.
pub fn judge_stack(programs: &[SeccompProgram]) -> Result<Judgement, ProgramError> {
    judge_within(programs, BUDGET_ALL)
}

/// The same with a bound on the states walked for all calls together.
pub(super) fn judge_within(programs: &[SeccompProgram], mut left: usize) -> Result<Judgement, ProgramError> {
    let decoded: Vec<Vec<Step>> = programs.iter().map(decode).collect::<Result<_, _>>()?;
    let mut judgement = Judgement {
        instructions: programs.iter().map(|program| program.0.len()).sum(),
        longest_path: programs.iter().map(longest_path).sum::<Result<_, _>>()?,
        ..Judgement::default()
    };
    let mut answers = |arch, nr| stack(&decoded, arch, nr, &mut left);
    for call in Sysno::iter() {
        judgement.file(call.name(), &answers(ARCH_X86_64, Some(call.id() as u32)));
    }
    let refused = |set: &BTreeSet<Answer>| set.iter().all(|answer| *answer <= Answer::Errno(u16::MAX));
    // Whatever the number: one that is let through is enough.
    judgement.i386_killed = answers(ARCH_I386, None).iter().all(|answer| *answer == Answer::Kill);
    judgement.x32_refused = (0..X32_NUMBERS).all(|nr| refused(&answers(ARCH_X86_64, Some(X32_BIT | nr))));
    let newer = Sysno::last().id() as u32 + 1;
    judgement.newer_refused = (newer..newer + NEWER_NUMBERS)
        .chain([newer + 100, 2000, X32_BIT - 1])
        .all(|nr| refused(&answers(ARCH_X86_64, Some(nr))));
    Ok(judgement)
}

impl Judgement {
    fn file(&mut self, name: &str, answers: &BTreeSet<Answer>) {
        let name = name.to_owned();
        let mut all = answers.iter();
        match (all.next(), all.next()) {
            (Some(Answer::Allow), None) => self.allowed.push(name),
            (Some(Answer::Kill), None) => self.kill.push(name),
            (Some(Answer::Errno(number)), None) => self.errno.entry(*number).or_default().push(name),
            _ if answers.contains(&Answer::Allow) => self.allowed_conditionally.push(name),
            _ if answers.contains(&Answer::Notify) => self.launch.push(name),
            _ => self.other.push(name),
        }
    }
}

/// The possible answers of a stack: for any combination of its filters' answers the strictest.
fn stack(programs: &[Vec<Step>], arch: u32, nr: Option<u32>, left: &mut usize) -> BTreeSet<Answer> {
    let mut combined = BTreeSet::from([Answer::Allow]);
    for program in programs {
        let answers = possible(program, arch, nr, left);
        combined = combined.iter().flat_map(|a| answers.iter().map(move |b| *a.min(b))).collect();
    }
    combined
}

/// What is known at one point of a walk; `None` is any value.
#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    at: usize,
    a: Option<u32>,
    x: Option<u32>,
    memory: [Option<u32>; 16],
}

/// Every answer that a program can give to a call whose arguments, and perhaps whose number, are not known.
fn possible(program: &[Step], arch: u32, nr: Option<u32>, left: &mut usize) -> BTreeSet<Answer> {
    let mut answers = BTreeSet::new();
    let mut seen = HashSet::new();
    let mut open = vec![State { at: 0, a: Some(0), x: Some(0), memory: [Some(0); 16] }];
    while let Some(mut state) = open.pop() {
        loop {
            *left = left.saturating_sub(1);
            if seen.len() >= BUDGET || *left == 0 {
                return BTreeSet::from([Answer::Kill, Answer::Notify, Answer::Allow]);
            }
            if !seen.insert(state.clone()) {
                break;
            }
            match advance(program, (arch, nr), &mut state) {
                Next::Go => {}
                Next::Fork(other) => open.push(State { at: other, ..state.clone() }),
                Next::End(value) => {
                    answers.extend(answer(value));
                    break;
                }
            }
        }
    }
    answers
}

enum Next {
    Go,
    /// The state went one way; this is the other.
    Fork(usize),
    End(Option<u32>),
}

fn advance(program: &[Step], call: (u32, Option<u32>), state: &mut State) -> Next {
    let Some(step) = program.get(state.at) else { return Next::End(Some(RET_KILL_PROCESS)) };
    state.at += 1;
    let right = |operand, x| match operand {
        Operand::Constant(k) => Some(k),
        Operand::X => x,
    };
    match *step {
        Step::Load(source) => state.a = load(source, call, &state.memory),
        Step::LoadX(source) => state.x = load(source, call, &state.memory),
        Step::Store(slot) => put(&mut state.memory, slot, state.a),
        Step::StoreX(slot) => put(&mut state.memory, slot, state.x),
        Step::Alu(op, operand) => match (state.a, right(operand, state.x)) {
            (Some(a), Some(b)) => match calculate(op, a, b) {
                Some(result) => state.a = Some(result),
                None => return Next::End(Some(0)),
            },
            _ => state.a = None,
        },
        Step::Negate => state.a = state.a.map(u32::wrapping_neg),
        Step::Jump(to) => state.at = to,
        Step::Branch(op, operand, yes, no) => match (state.a, right(operand, state.x)) {
            (Some(a), Some(b)) => state.at = if compare(op, a, b) { yes } else { no },
            _ => {
                state.at = yes;
                return Next::Fork(no);
            }
        },
        Step::Return(constant) => return Next::End(constant.or(state.a)),
        Step::CopyToX => state.x = state.a,
        Step::CopyFromX => state.a = state.x,
    }
    Next::Go
}

fn put(memory: &mut [Option<u32>; 16], slot: usize, value: Option<u32>) {
    if let Some(entry) = memory.get_mut(slot) {
        *entry = value;
    }
}

/// The architecture is known, and the number where it is given; nothing else of the call is.
fn load(source: Source, (arch, nr): (u32, Option<u32>), memory: &[Option<u32>; 16]) -> Option<u32> {
    match source {
        Source::Constant(k) => Some(k),
        Source::Data(0) => nr,
        Source::Data(4) => Some(arch),
        Source::Data(_) => None,
        Source::Memory(slot) => memory.get(slot).copied().flatten(),
    }
}

fn answer(value: Option<u32>) -> Vec<Answer> {
    let Some(value) = value else {
        return vec![Answer::Kill, Answer::Notify, Answer::Allow];
    };
    vec![match value & RET_ACTION {
        RET_ALLOW | RET_LOG => Answer::Allow,
        RET_ERRNO => Answer::Errno((value & 0xffff) as u16),
        RET_USER_NOTIF => Answer::Notify,
        RET_TRACE => Answer::Trace,
        RET_TRAP => Answer::Trap,
        // The kernel treats an action that it does not know as KILL_PROCESS.
        RET_KILL_PROCESS | RET_KILL_THREAD => Answer::Kill,
        _ => Answer::Kill,
    }]
}
