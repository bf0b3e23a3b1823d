//! Properties: a compiled filter does what the filter says, and the judge agrees with both.

use proptest::prelude::*;
use syscalls::Sysno;

use super::compile::value;
use super::interpret::{Call, longest_path, run};
use super::model::{Action, Condition, Filter, Test, Word};
use super::{ARCH_I386, ARCH_X86_64, X32_BIT, compile, judge};
use crate::privsep::confinement::{BpfInsn, SeccompProgram};

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => Just(Action::Allow),
        2 => Just(Action::Launch),
        1 => Just(Action::Kill),
        1 => (1u16..40).prop_map(Action::Errno),
    ]
}

/// Values that collide often: small ones, ones that differ in the upper word only, and the extremes.
fn number() -> impl Strategy<Value = u64> {
    let word = prop_oneof![0u64..6, Just(0xffff_ffff), Just(0x8000_0000), any::<u32>().prop_map(u64::from)];
    (word.clone(), prop_oneof![3 => Just(0u64), 1 => word]).prop_map(|(low, high)| low | high << 32)
}

fn condition() -> impl Strategy<Value = Condition> {
    let test = prop_oneof![
        number().prop_map(Test::AtMost),
        (number(), number()).prop_map(|(mask, value)| Test::Masked { mask, value }),
        prop::collection::btree_set(number(), 1..12).prop_map(|v| Test::OneOf(v.into_iter().collect())),
    ];
    (0u8..6, prop::bool::ANY, test).prop_map(|(arg, full, test)| Condition {
        arg,
        word: if full { Word::Full } else { Word::Low },
        test,
    })
}

type Rule = (usize, Vec<Condition>, Action);

fn rules(count: usize) -> impl Strategy<Value = Vec<Rule>> {
    let known = Sysno::iter().count();
    let conditions = prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(condition(), 1..4)];
    prop::collection::vec((0..known, conditions, action()), 0..count)
}

fn build(rules: &[Rule]) -> Filter {
    let calls: Vec<Sysno> = Sysno::iter().collect();
    let mut filter = Filter::default();
    for (at, conditions, action) in rules {
        filter.add(calls[*at], conditions.clone(), *action);
    }
    filter.normalise();
    filter
}

/// The values a condition's outcome changes at, and random ones.
fn args(rules: &[Rule]) -> impl Strategy<Value = [u64; 6]> + use<> {
    let mut edges = vec![0, u64::MAX];
    for condition in rules.iter().flat_map(|rule| &rule.1) {
        match &condition.test {
            Test::AtMost(most) => edges.extend([*most, most.wrapping_add(1)]),
            Test::Masked { mask, value } => edges.extend([*value, value & mask, value | !mask]),
            Test::OneOf(values) => {
                edges.extend(values.iter().flat_map(|v| [*v, v.wrapping_add(1), v ^ (1 << 40)]))
            }
        }
    }
    let one = prop_oneof![4 => prop::sample::select(edges), 1 => number()];
    [one.clone(), one.clone(), one.clone(), one.clone(), one.clone(), one]
}

fn agrees(filter: &Filter, program: &SeccompProgram, call: &Call) -> Result<(), TestCaseError> {
    let outcome = run(program, call).unwrap();
    prop_assert_eq!(outcome.value, value(filter.eval(call.arch, call.nr, &call.args)), "{:?}", call);
    prop_assert!(outcome.instructions <= longest_path(program).unwrap());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn the_program_does_what_the_filter_says(
        (rules, samples) in rules(120).prop_flat_map(|rules| {
            let samples = prop::collection::vec(args(&rules), 1..6);
            (Just(rules), samples)
        })
    ) {
        let filter = build(&rules);
        let program = compile(&filter).unwrap();
        for args in samples {
            for nr in (0..480).chain([X32_BIT - 1, X32_BIT, X32_BIT + 1, u32::MAX]) {
                agrees(&filter, &program, &Call { nr, arch: ARCH_X86_64, args, ..Call::default() })?;
            }
            agrees(&filter, &program, &Call { nr: 1, arch: ARCH_I386, args, ..Call::default() })?;
        }
    }

    #[test]
    fn a_smaller_profile_never_allows_more(all in rules(60), keep in prop::collection::vec(any::<bool>(), 60), args in [number(), number(), number(), number(), number(), number()]) {
        // Ways through only: a stated refusal changes how a call fails, never whether.
        let open: Vec<Rule> = all.into_iter().filter(|r| matches!(r.2, Action::Allow | Action::Launch)).collect();
        let some: Vec<Rule> = open.iter().zip(&keep).filter(|(_, k)| **k).map(|(r, _)| r.clone()).collect();
        let (whole, part) = (build(&open), build(&some));
        for call in Sysno::iter() {
            let width = |filter: &Filter| match filter.eval(ARCH_X86_64, call.id() as u32, &args) {
                Action::Allow => 2,
                Action::Launch => 1,
                _ => 0,
            };
            prop_assert!(width(&part) <= width(&whole), "{}", call);
        }
    }

    #[test]
    fn the_judge_covers_what_calls_do(rules in rules(60), args in [number(), number(), number(), number(), number(), number()]) {
        let filter = build(&rules);
        let judgement = judge(&compile(&filter).unwrap()).unwrap();
        prop_assert!(judgement.i386_killed && judgement.x32_refused && judgement.newer_refused);
        for call in Sysno::iter() {
            let name = call.name().to_owned();
            match filter.eval(ARCH_X86_64, call.id() as u32, &args) {
                Action::Allow => prop_assert!(
                    judgement.allowed.contains(&name) || judgement.allowed_conditionally.contains(&name)
                ),
                other => prop_assert!(!judgement.allowed.contains(&name), "{}: {:?}", name, other),
            }
        }
    }

    #[test]
    fn no_program_is_too_strange(insns in prop::collection::vec((any::<u16>(), 0u8..8, 0u8..8, any::<u32>()), 0..200), plain in any::<bool>()) {
        let program = SeccompProgram(
            insns
                .into_iter()
                .map(|(code, jt, jf, k)| {
                    if plain { BpfInsn(code & 0xff, jt, jf, k % 70) } else { BpfInsn(code, jt, jf, k) }
                })
                .collect(),
        );
        let _ = run(&program, &Call::default());
        let _ = judge(&program);
        let _ = longest_path(&program);
    }

    #[test]
    fn every_code_that_the_kernel_takes_is_run_without_panic(
        picks in prop::collection::vec((0usize..CODES.len(), 0u8..6, 0u8..6, any::<u32>()), 1..60)
    ) {
        let mut insns: Vec<BpfInsn> = picks
            .into_iter()
            .map(|(at, jt, jf, k)| {
                let (code, bound) = CODES[at];
                BpfInsn(code, jt, jf, if bound == 0 { k } else if code == 0x20 { k % bound * 4 } else { k % bound })
            })
            .collect();
        insns.extend(std::iter::repeat_n(BpfInsn(0x06, 0, 0, 0x7fff_0000), 8));
        let program = SeccompProgram(insns);
        let outcome = run(&program, &Call::default());
        prop_assert!(outcome.is_ok() || longest_path(&program).is_err());
        let _ = judge(&program);
    }
}

/// Codes of `seccomp_check_filter` (kernel/seccomp.c) and a bound for the operand (0: any).
const CODES: [(u16, u32); 40] = [
    (0x20, 16),
    (0x80, 0),
    (0x81, 0),
    (0x06, 0),
    (0x16, 0),
    (0x04, 0),
    (0x0c, 0),
    (0x14, 0),
    (0x1c, 0),
    (0x24, 0),
    (0x2c, 0),
    (0x34, 0),
    (0x3c, 0),
    (0x54, 0),
    (0x5c, 0),
    (0x44, 0),
    (0x4c, 0),
    (0xa4, 0),
    (0xac, 0),
    (0x64, 32),
    (0x6c, 0),
    (0x74, 32),
    (0x7c, 0),
    (0x84, 0),
    (0x00, 0),
    (0x01, 0),
    (0x60, 16),
    (0x61, 16),
    (0x02, 16),
    (0x03, 16),
    (0x07, 0),
    (0x87, 0),
    (0x05, 6),
    (0x15, 0),
    (0x1d, 0),
    (0x35, 0),
    (0x3d, 0),
    (0x25, 0),
    (0x45, 0),
    (0x4d, 0),
];

#[test]
fn far_jumps_reach() {
    // Every known call with an argument block of its own: far more than 255 instructions apart.
    let mut filter = Filter::default();
    for call in Sysno::iter() {
        let wanted = u64::from(call.id() as u32) << 20 | 7;
        let condition = Condition { arg: 1, word: Word::Full, test: Test::OneOf(vec![wanted]) };
        filter.add(call, vec![condition], Action::Allow);
    }
    filter.normalise();
    let program = compile(&filter).unwrap();
    assert!(program.0.len() > 1000, "{} instructions", program.0.len());
    for call in Sysno::iter() {
        let nr = call.id() as u32;
        for offset in [0, 1] {
            let call = Call {
                nr,
                arch: ARCH_X86_64,
                args: [0, (u64::from(nr) << 20 | 7) + offset, 0, 0, 0, 0],
                ..Call::default()
            };
            agrees(&filter, &program, &call).unwrap();
        }
    }
}

#[test]
fn numbers_above_the_table_and_foreign_calls() {
    let filter = build(&[]);
    let none = [0; 6];
    assert_eq!(filter.eval(ARCH_X86_64, Sysno::read.id() as u32, &none), Action::Errno(1));
    assert_eq!(filter.eval(ARCH_X86_64, Sysno::last().id() as u32 + 1, &none), Action::Errno(38));
    assert_eq!(filter.eval(ARCH_X86_64, X32_BIT, &none), Action::Kill);
    assert_eq!(filter.eval(ARCH_I386, 3, &none), Action::Kill);
    assert_eq!(filter.eval(0xc000_00b7, 63, &none), Action::Kill);
}

#[test]
fn one_foreign_number_that_passes_is_seen() {
    let program = |code: &[(u16, u8, u8, u32)]| {
        SeccompProgram(code.iter().map(|(code, jt, jf, k)| BpfInsn(*code, *jt, *jf, *k)).collect())
    };
    // Load the number, compare it with one, allow that and kill the rest.
    let only = |nr| [(0x20, 0, 0, 0), (0x15, 0, 1, nr), (0x06, 0, 0, 0x7fff_0000), (0x06, 0, 0, 0x8000_0000)];
    for nr in [X32_BIT | 5, X32_BIT | 547] {
        assert!(!judge(&program(&only(nr))).unwrap().x32_refused, "{nr:#x}");
    }
    let newer = Sysno::last().id() as u32 + 7;
    assert!(!judge(&program(&only(newer))).unwrap().newer_refused);
    // The same behind a comparison of the architecture.
    let mut i386 = vec![(0x20, 0, 0, 4), (0x15, 0, 3, ARCH_I386)];
    i386.extend(only(7));
    let judgement = judge(&program(&i386)).unwrap();
    assert!(!judgement.i386_killed && judgement.x32_refused && judgement.newer_refused);
}

#[test]
fn filters_that_are_slow_to_walk_are_judged_in_time() {
    // Every argument word decides one slot of the memory, so that each path leaves another state.
    let mut code = Vec::new();
    for slot in 0..16_u32 {
        code.push(BpfInsn(0x20, 0, 0, 16 + 4 * (slot % 12)));
        code.push(BpfInsn(0x45, 1, 0, 1 << slot));
        code.push(BpfInsn(0x00, 0, 0, 1));
        code.push(BpfInsn(0x02, 0, 0, slot));
    }
    code.push(BpfInsn(0x06, 0, 0, 0x7fff_0000));
    let stack = vec![SeccompProgram(code); 64];
    let begun = std::time::Instant::now();
    let judgement = super::judge::judge_within(&stack, 100_000).unwrap();
    // Without a bound it takes minutes.
    assert!(begun.elapsed() < std::time::Duration::from_secs(30), "{:?}", begun.elapsed());
    assert!(judgement.allowed_conditionally.iter().any(|name| name == "execve"));
    assert!(!judgement.i386_killed && !judgement.x32_refused && !judgement.newer_refused);
}
