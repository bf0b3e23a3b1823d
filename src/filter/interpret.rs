//! Runs any classic BPF program over a system call as the kernel would, without trusting the program.

use super::INSTRUCTIONS_MAX;
use super::bpf::{
    ABS, ALU, AND, CLASS, DATA, IMM, JA, JEQ, JGE, JGT, JMP, JSET, LD, LDX, LEN, MEM, MISC, RET, RET_A, ST,
    STX, TXA, X,
};
use crate::privsep::confinement::{BpfInsn, SeccompProgram};

/// What a filter sees of a system call: `struct seccomp_data` of linux/seccomp.h.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// The number.
    pub nr: u32,
    /// `AUDIT_ARCH_…`
    pub arch: u32,
    /// Where it is made.
    pub instruction_pointer: u64,
    /// The arguments.
    pub args: [u64; 6],
}

/// A program's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The returned value: an action in the upper half, data in the lower.
    pub value: u32,
    /// Instructions that were run.
    pub instructions: usize,
}

/// Why a program is none that the kernel would take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProgramError {
    /// It has no instruction or more than 4096.
    #[error("a program of {0} instructions")]
    Length(usize),
    /// An instruction is unknown or not for seccomp.
    #[error("instruction {at}: code {code:#06x} is not one that seccomp takes")]
    Code {
        /// Which.
        at: usize,
        /// Its code.
        code: u16,
    },
    /// A jump leaves the program, or its end is reached.
    #[error("instruction {0}: leaves the program")]
    Leaves(usize),
    /// A load or store is outside the data or the scratch memory, or a divisor is zero.
    #[error("instruction {0}: operand out of range")]
    Operand(usize),
}

impl Call {
    /// One aligned 32-bit word of the data.
    pub(super) fn word(&self, offset: u32) -> Option<u32> {
        let half =
            |value: u64, upper: bool| if upper { (value >> 32) as u32 } else { (value & 0xffff_ffff) as u32 };
        let upper = offset % 8 == 4;
        match offset {
            0 => Some(self.nr),
            4 => Some(self.arch),
            8 | 12 => Some(half(self.instruction_pointer, upper)),
            _ if offset.is_multiple_of(4) => {
                self.args.get((offset as usize - 16) / 8).map(|arg| half(*arg, upper))
            }
            _ => None,
        }
    }
}

/// What one instruction does, decoded once and checked as the kernel does at load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// `A = value`
    Load(Source),
    /// `X = value`
    LoadX(Source),
    /// `M[k] = A`
    Store(usize),
    /// `M[k] = X`
    StoreX(usize),
    /// `A = A op operand`; the operation's bits of the code.
    Alu(u16, Operand),
    /// `A = -A`
    Negate,
    /// To this instruction.
    Jump(usize),
    /// Comparison, operand, target if true, target if false.
    Branch(u16, Operand, usize, usize),
    /// The end: a constant, or A.
    Return(Option<u32>),
    /// `X = A`
    CopyToX,
    /// `A = X`
    CopyFromX,
}

/// Where a load takes its value from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Constant(u32),
    Data(u32),
    Memory(usize),
}

/// The second operand of a calculation or comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    Constant(u32),
    X,
}

/// Decodes and checks a whole program.
pub(super) fn decode(program: &SeccompProgram) -> Result<Vec<Step>, ProgramError> {
    let length = program.0.len();
    if length == 0 || length > INSTRUCTIONS_MAX {
        return Err(ProgramError::Length(length));
    }
    let steps: Vec<Step> =
        program.0.iter().enumerate().map(|(at, insn)| step(at, *insn, length)).collect::<Result<_, _>>()?;
    match steps.last() {
        Some(Step::Return(_)) => Ok(steps),
        _ => Err(ProgramError::Leaves(length - 1)),
    }
}

fn step(at: usize, BpfInsn(code, jt, jf, k): BpfInsn, length: usize) -> Result<Step, ProgramError> {
    let unknown = ProgramError::Code { at, code };
    let target = |offset: u32| {
        let to = (at + 1).saturating_add(offset as usize);
        if to < length { Ok(to) } else { Err(ProgramError::Leaves(at)) }
    };
    let memory = || if k < 16 { Ok(k as usize) } else { Err(ProgramError::Operand(at)) };
    let operand = if code & X == 0 { Operand::Constant(k) } else { Operand::X };
    // The size bits must say "word" (0) throughout.
    Ok(match code & CLASS {
        LD | LDX => {
            let source = match code & !CLASS {
                IMM => Source::Constant(k),
                MEM => Source::Memory(memory()?),
                LEN => Source::Constant(DATA),
                ABS if code & CLASS == LD && k < DATA && k % 4 == 0 => Source::Data(k),
                ABS if code & CLASS == LD => return Err(ProgramError::Operand(at)),
                _ => return Err(unknown),
            };
            if code & CLASS == LD { Step::Load(source) } else { Step::LoadX(source) }
        }
        ST if code == ST => Step::Store(memory()?),
        STX if code == STX => Step::StoreX(memory()?),
        ALU => match code & 0xf0 {
            0x80 if code == ALU | 0x80 => Step::Negate,
            0x30 | 0x90 if operand == Operand::Constant(0) => return Err(ProgramError::Operand(at)),
            // Shifts by 32 or more: the kernel refuses constants.
            0x60 | 0x70 if matches!(operand, Operand::Constant(32..)) => {
                return Err(ProgramError::Operand(at));
            }
            // Modulo is not among the operations that seccomp takes.
            op @ (0x00 | 0x10 | 0x20 | 0x30 | 0x40 | AND | 0x60 | 0x70 | 0xa0) if code & 0xff00 == 0 => {
                Step::Alu(op, operand)
            }
            _ => return Err(unknown),
        },
        JMP => match code & 0xf0 {
            JA if code == JMP | JA => Step::Jump(target(k)?),
            op @ (JEQ | JGT | JGE | JSET) if code & 0xff00 == 0 => {
                Step::Branch(op, operand, target(u32::from(jt))?, target(u32::from(jf))?)
            }
            _ => return Err(unknown),
        },
        RET => match code {
            RET => Step::Return(Some(k)),
            _ if code == RET | RET_A => Step::Return(None),
            _ => return Err(unknown),
        },
        MISC if code == MISC => Step::CopyToX,
        MISC if code == MISC | TXA => Step::CopyFromX,
        _ => return Err(unknown),
    })
}

/// One calculation; a division by a zero in X ends the program with 0 in the kernel, which is `None` here.
pub(super) fn calculate(op: u16, a: u32, b: u32) -> Option<u32> {
    Some(match op {
        0x00 => a.wrapping_add(b),
        0x10 => a.wrapping_sub(b),
        0x20 => a.wrapping_mul(b),
        0x30 => a.checked_div(b)?,
        0x40 => a | b,
        AND => a & b,
        0x60 => a.wrapping_shl(b),
        0x70 => a.wrapping_shr(b),
        _ => a ^ b,
    })
}

/// One comparison.
pub(super) fn compare(op: u16, a: u32, b: u32) -> bool {
    match op {
        JEQ => a == b,
        JGT => a > b,
        JGE => a >= b,
        _ => a & b != 0,
    }
}

/// Runs a program over one call. Jumps go forward only, so it ends within its own length.
pub fn run(program: &SeccompProgram, call: &Call) -> Result<Outcome, ProgramError> {
    let steps = decode(program)?;
    let (mut a, mut x, mut memory) = (0u32, 0u32, [0u32; 16]);
    let mut at = 0;
    let mut instructions = 0;
    while let Some(step) = steps.get(at) {
        instructions += 1;
        at += 1;
        let value = |source: Source| match source {
            Source::Constant(k) => Some(k),
            Source::Data(offset) => call.word(offset),
            Source::Memory(slot) => memory.get(slot).copied(),
        };
        let right = |operand: Operand| match operand {
            Operand::Constant(k) => k,
            Operand::X => x,
        };
        match *step {
            Step::Load(source) => a = value(source).ok_or(ProgramError::Operand(at - 1))?,
            Step::LoadX(source) => x = value(source).ok_or(ProgramError::Operand(at - 1))?,
            Step::Store(slot) => *memory.get_mut(slot).ok_or(ProgramError::Operand(at - 1))? = a,
            Step::StoreX(slot) => *memory.get_mut(slot).ok_or(ProgramError::Operand(at - 1))? = x,
            Step::Alu(op, operand) => match calculate(op, a, right(operand)) {
                Some(result) => a = result,
                None => return Ok(Outcome { value: 0, instructions }),
            },
            Step::Negate => a = a.wrapping_neg(),
            Step::Jump(to) => at = to,
            Step::Branch(op, operand, yes, no) => at = if compare(op, a, right(operand)) { yes } else { no },
            Step::Return(constant) => return Ok(Outcome { value: constant.unwrap_or(a), instructions }),
            Step::CopyToX => x = a,
            Step::CopyFromX => a = x,
        }
    }
    Err(ProgramError::Leaves(at))
}

/// How many instructions the longest path through a program has, whether or not any call takes it.
pub fn longest_path(program: &SeccompProgram) -> Result<usize, ProgramError> {
    let steps = decode(program)?;
    let mut longest = vec![0usize; steps.len()];
    for (at, step) in steps.iter().enumerate().rev() {
        let of = |to: usize| longest.get(to).copied().unwrap_or(0);
        let rest = match *step {
            Step::Return(_) => 0,
            Step::Jump(to) => of(to),
            Step::Branch(_, _, yes, no) => of(yes).max(of(no)),
            _ => of(at + 1),
        };
        if let Some(entry) = longest.get_mut(at) {
            *entry = rest + 1;
        }
    }
    Ok(longest.first().copied().unwrap_or(0))
}
