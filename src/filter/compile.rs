//! From a [`Filter`] to classic BPF: a range tree over the system call numbers with the lowest longest path.
//!
//! The program loads the architecture and the number, walks a binary tree of `>=` jumps to the range that holds
//! the number, and there returns or looks at arguments. Ranges with equal answers are one range. Calls whose
//! answer needs no argument never load one, so that the kernel (5.11 and later) remembers an "allow" for them and
//! does not run the program again.
//!
//! Instructions are laid down from the last to the first: every jump goes forward, to code that is there already.

use std::collections::HashMap;

use super::bpf::{
    ALU, AND, ARCH, ARGS, JA, JEQ, JGE, JGT, JMP, LOAD, NR, RET, RET_ALLOW, RET_ERRNO, RET_KILL_PROCESS,
    RET_USER_NOTIF,
};
use super::model::{Action, Clause, Condition, Filter, Policy, Test, Word};
use super::{ARCH_X86_64, INSTRUCTIONS_MAX, X32_BIT};
use crate::privsep::confinement::{BpfInsn, SeccompProgram};

/// Why a filter has no program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// The kernel takes no more than 4096 instructions.
    #[error("the filter needs {0} instructions, more than the 4096 that the kernel takes")]
    TooLong(usize),
}

/// What lies at the end of a path through the tree.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Leaf {
    Return(Action),
    Arguments(Policy),
}

/// Numbers from `first` to the next range's, and what they get.
struct Range {
    first: u32,
    leaf: Leaf,
}

/// Compiles a filter.
pub fn compile(filter: &Filter) -> Result<SeccompProgram, CompileError> {
    let ranges = ranges(filter);
    let mut code = Code::default();
    let body = tree(&mut code, &ranges, &Splits::new(&ranges), 0, ranges.len().saturating_sub(1));
    code.enter(body);
    code.push(LOAD, 0, 0, NR);
    let number = code.top();
    let kill = code.ret(Action::Kill);
    // The return may lie above the body: the jump over it is the fall-through of this comparison.
    code.branch(JMP | JEQ, ARCH_X86_64, number, kill);
    code.push(LOAD, 0, 0, ARCH);
    code.finish()
}

fn ranges(filter: &Filter) -> Vec<Range> {
    let known = syscalls::Sysno::last().id() as u32;
    let last = filter.policies.keys().next_back().map_or(known, |nr| known.max(*nr));
    let mut ranges: Vec<Range> = Vec::new();
    let mut add = |first, leaf| {
        if ranges.last().is_none_or(|range| range.leaf != leaf) {
            ranges.push(Range { first, leaf });
        }
    };
    for nr in 0..=last.saturating_add(1) {
        add(nr, leaf(filter, nr));
    }
    add(X32_BIT, Leaf::Return(Action::Kill));
    ranges
}

fn leaf(filter: &Filter, nr: u32) -> Leaf {
    match filter.policies.get(&nr) {
        None => Leaf::Return(filter.unnamed(nr)),
        Some(policy) if policy.clauses.is_empty() => Leaf::Return(policy.otherwise),
        Some(policy) => Leaf::Arguments(policy.clone()),
    }
}

/// An upper bound on the instructions on a path through a leaf.
fn weight(leaf: &Leaf) -> usize {
    match leaf {
        Leaf::Return(_) => 1,
        Leaf::Arguments(policy) => {
            1 + policy
                .clauses
                .iter()
                .flat_map(|clause| &clause.conditions)
                .map(condition_weight)
                .sum::<usize>()
        }
    }
}

fn condition_weight(condition: &Condition) -> usize {
    let words = if condition.word == Word::Full { 2 } else { 1 };
    match &condition.test {
        Test::AtMost(_) => 2 * words + 1,
        Test::Masked { .. } => 3 * words,
        Test::OneOf(values) if condition.word == Word::Low => 3 + values.len().ilog2() as usize,
        Test::OneOf(values) => 4 * values.len(),
    }
}

/// For every run of ranges the height of its best tree and where that tree splits.
struct Splits {
    size: usize,
    height: Vec<usize>,
    split: Vec<usize>,
}

impl Splits {
    /// Builds the table from short runs to long ones. A run's height grows with the run, so the best split is where
    /// the left half overtakes the right one, and a binary search finds it.
    fn new(ranges: &[Range]) -> Self {
        let size = ranges.len();
        let mut table = Self { size, height: vec![0; size * size], split: vec![0; size * size] };
        for (at, range) in ranges.iter().enumerate() {
            table.set(at, at, weight(&range.leaf), at);
        }
        for length in 2..=size {
            for first in 0..=size - length {
                let last = first + length - 1;
                let (split, height) = table.best(first, last);
                table.set(first, last, height + 1, split);
            }
        }
        table
    }

    fn best(&self, first: usize, last: usize) -> (usize, usize) {
        let (mut low, mut high) = (first, last - 1);
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.at(first, middle) >= self.at(middle + 1, last) { high = middle } else { low = middle + 1 }
        }
        let height = |k: usize| self.at(first, k).max(self.at(k + 1, last));
        if low > first && height(low - 1) <= height(low) {
            (low - 1, height(low - 1))
        } else {
            (low, height(low))
        }
    }

    fn at(&self, first: usize, last: usize) -> usize {
        self.height.get(first * self.size + last).copied().unwrap_or(0)
    }

    fn split(&self, first: usize, last: usize) -> usize {
        self.split.get(first * self.size + last).copied().unwrap_or(first)
    }

    fn set(&mut self, first: usize, last: usize, height: usize, split: usize) {
        let at = first * self.size + last;
        if let (Some(h), Some(s)) = (self.height.get_mut(at), self.split.get_mut(at)) {
            *h = height;
            *s = split;
        }
    }
}

/// Lays down the tree of `ranges[first..=last]` and returns where it starts. The number is in the accumulator.
fn tree(code: &mut Code, ranges: &[Range], splits: &Splits, first: usize, last: usize) -> Label {
    if first == last {
        return match ranges.get(first).map(|range| &range.leaf) {
            Some(Leaf::Arguments(policy)) => arguments(code, policy),
            Some(Leaf::Return(action)) => code.ret(*action),
            None => code.ret(Action::Kill),
        };
    }
    let split = splits.split(first, last);
    let right = tree(code, ranges, splits, split + 1, last);
    let left = tree(code, ranges, splits, first, split);
    let bound = ranges.get(split + 1).map_or(0, |range| range.first);
    code.branch(JMP | JGE, bound, right, left)
}

fn arguments(code: &mut Code, policy: &Policy) -> Label {
    if let Some(known) = code.blocks.get(policy) {
        return *known;
    }
    let mut next = code.ret(policy.otherwise);
    for Clause { conditions, action } in policy.clauses.iter().rev() {
        let mut yes = code.ret(*action);
        for condition in conditions.iter().rev() {
            yes = test(code, condition, yes, next);
        }
        next = yes;
    }
    code.blocks.insert(policy.clone(), next);
    next
}

/// Lays down one condition and returns where it starts.
fn test(code: &mut Code, condition: &Condition, yes: Label, no: Label) -> Label {
    let low = ARGS + 8 * u32::from(condition.arg);
    let full = condition.word == Word::Full;
    let halves = |value: u64| ((value >> 32) as u32, (value & 0xffff_ffff) as u32);
    match &condition.test {
        Test::AtMost(most) => {
            let (above, below) = halves(*most);
            code.branch(JMP | JGT, below, no, yes);
            let lower = code.load(low);
            if !full {
                return lower;
            }
            let equal = code.branch(JMP | JEQ, above, lower, yes);
            code.branch(JMP | JGT, above, no, equal);
            code.load(low + 4)
        }
        Test::Masked { mask, value } => {
            let (mask_above, mask_below) = halves(*mask);
            let (above, below) = halves(*value & *mask);
            let lower = masked(code, low, mask_below, below, yes, no);
            if full && mask_above != 0 { masked(code, low + 4, mask_above, above, lower, no) } else { lower }
        }
        Test::OneOf(values) if !full => {
            let mut words: Vec<u32> = values.iter().map(|value| halves(*value).1).collect();
            words.sort_unstable();
            words.dedup();
            let found = search(code, &words, yes, no);
            code.enter(found);
            code.load(low)
        }
        Test::OneOf(values) => one_of(code, low, values, yes, no),
    }
}

/// 64-bit values: the upper halves first, and for each of them its lower halves.
fn one_of(code: &mut Code, low: u32, values: &[u64], yes: Label, no: Label) -> Label {
    let mut groups: std::collections::BTreeMap<u32, Vec<u32>> = std::collections::BTreeMap::new();
    for value in values {
        groups.entry((*value >> 32) as u32).or_default().push((*value & 0xffff_ffff) as u32);
    }
    let mut next = no;
    for (above, mut below) in groups.into_iter().rev() {
        below.sort_unstable();
        below.dedup();
        let found = search(code, &below, yes, no);
        code.enter(found);
        let lower = code.load(low);
        next = code.branch(JMP | JEQ, above, lower, next);
    }
    code.enter(next);
    code.load(low + 4)
}

fn masked(code: &mut Code, offset: u32, mask: u32, value: u32, yes: Label, no: Label) -> Label {
    code.branch(JMP | JEQ, value, yes, no);
    if mask != u32::MAX {
        code.push(ALU | AND, 0, 0, mask);
    }
    code.load(offset)
}

/// A binary search for the accumulator in sorted `values`.
fn search(code: &mut Code, values: &[u32], yes: Label, no: Label) -> Label {
    if values.len() <= 3 {
        let mut next = no;
        for value in values.iter().rev() {
            next = code.branch(JMP | JEQ, *value, yes, next);
        }
        return next;
    }
    let (below, above) = values.split_at(values.len() / 2);
    let right = search(code, above, yes, no);
    let left = search(code, below, yes, no);
    code.branch(JMP | JGE, above.first().copied().unwrap_or(0), right, left)
}

/// Where an instruction lies, counted from the end of the program.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Label(usize);

/// A program under construction, the last instruction first.
#[derive(Default)]
struct Code {
    reversed: Vec<BpfInsn>,
    returns: HashMap<Action, Label>,
    blocks: HashMap<Policy, Label>,
}

impl Code {
    fn push(&mut self, op: u16, jt: u8, jf: u8, k: u32) -> Label {
        self.reversed.push(BpfInsn(op, jt, jf, k));
        self.top()
    }

    fn top(&self) -> Label {
        Label(self.reversed.len().saturating_sub(1))
    }

    fn load(&mut self, offset: u32) -> Label {
        self.push(LOAD, 0, 0, offset)
    }

    /// A return near enough to be jumped to from the next few instructions.
    fn ret(&mut self, action: Action) -> Label {
        if let Some(label) = self.returns.get(&action)
            && self.reversed.len() - label.0 < 200
        {
            return *label;
        }
        let label = self.push(RET, 0, 0, value(action));
        self.returns.insert(action, label);
        label
    }

    /// Makes sure that what is laid down next falls through to `label`.
    fn enter(&mut self, label: Label) {
        if self.top() != label {
            let skip = self.reversed.len() - label.0 - 1;
            self.push(JMP | JA, 0, 0, u32::try_from(skip).unwrap_or(u32::MAX));
        }
    }

    /// A conditional jump; where a target is out of the reach of 255, through a jump of its own.
    fn branch(&mut self, op: u16, k: u32, yes: Label, no: Label) -> Label {
        let far = |code: &Self, label: Label| code.reversed.len() - label.0 > 255;
        let (mut yes, mut no) = (yes, no);
        if far(self, yes) || far(self, no) {
            if self.reversed.len() - yes.0 > 250 {
                yes = self.trampoline(yes);
            }
            if self.reversed.len() - no.0 > 250 {
                no = self.trampoline(no);
            }
        }
        let offset = |label: Label| u8::try_from(self.reversed.len() - label.0 - 1).unwrap_or(u8::MAX);
        let (jt, jf) = (offset(yes), offset(no));
        self.push(op, jt, jf, k)
    }

    fn trampoline(&mut self, label: Label) -> Label {
        let skip = self.reversed.len() - label.0 - 1;
        self.push(JMP | JA, 0, 0, u32::try_from(skip).unwrap_or(u32::MAX))
    }

    fn finish(mut self) -> Result<SeccompProgram, CompileError> {
        if self.reversed.len() > INSTRUCTIONS_MAX {
            return Err(CompileError::TooLong(self.reversed.len()));
        }
        self.reversed.reverse();
        Ok(SeccompProgram(self.reversed))
    }
}

/// What a filter returns for an action (linux/seccomp.h).
pub(super) fn value(action: Action) -> u32 {
    match action {
        Action::Allow => RET_ALLOW,
        Action::Errno(number) => RET_ERRNO | u32::from(number),
        Action::Kill => RET_KILL_PROCESS,
        Action::Launch => RET_USER_NOTIF,
    }
}
