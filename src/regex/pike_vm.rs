//! Runs a program over a subject in time proportional to the length of both: a Pike VM. All threads, the possible paths
//! through the program, advance together, one byte at a time; of two at the same step, the preferred one continues.
//!
//! Look-arounds run before the expression and record the offsets at which they match: look-behinds forwards over the
//! subject, look-aheads backwards.

use crate::regex::program::{Instruction, Lookaround, Program};

/// The offset of a group that captured nothing, and of a step that was not visited.
pub(super) const UNSET: u32 = u32::MAX;

/// The start and the end of each group.
pub(super) type CaptureSlots = Vec<u32>;

/// Finds the first match and its groups. With `slot_count` 0 it only tests whether there is one, which is faster.
pub(super) fn find(program: &Program, subject: &[u8], slot_count: usize) -> Option<CaptureSlots> {
    let start = program.next_start(subject, 0)?;
    if !program.may_match(subject) {
        return None;
    }
    if program.is_straight {
        return find_straight(program, subject, start, slot_count);
    }
    let mut lookarounds: Vec<Vec<bool>> = Vec::new();
    for Lookaround { steps, is_behind } in &program.looks {
        let mut vm = Vm::new(program, steps, subject, &lookarounds, 0);
        vm.match_ends = Some(vec![false; subject.len() + 1]);
        vm.run(if *is_behind { 0 } else { subject.len() }, !is_behind);
        let match_ends = vm.match_ends.unwrap_or_default();
        lookarounds.push(match_ends);
    }
    let mut vm = Vm::new(program, &program.steps, subject, &lookarounds, slot_count);
    vm.run(start, false);
    vm.found
}

/// As `find`, for a program without branches: compares its steps at one offset after the other.
fn find_straight(program: &Program, subject: &[u8], start: usize, slot_count: usize) -> Option<CaptureSlots> {
    let mut slots = vec![UNSET; slot_count];
    let mut next = Some(start);
    while let Some(start) = next {
        let end = match_straight(program, subject, start, &mut slots);
        if let Some(end) = end {
            if let [from, to, ..] = slots.as_mut_slice() {
                (*from, *to) = (start as u32, end as u32);
            }
            return Some(slots);
        }
        next = program.next_start(subject, start + 1);
    }
    None
}

/// Returns the end of a match that begins at `at`.
fn match_straight(program: &Program, subject: &[u8], mut at: usize, slots: &mut [u32]) -> Option<usize> {
    for step in &program.steps {
        work::count();
        let byte = subject.get(at).copied();
        let is_match = match *step {
            Instruction::Byte { value, case_bit } => byte? | case_bit == value,
            Instruction::Set(number) => program.sets.get(usize::from(number))?.contains(byte?),
            Instruction::Assert(assert) if !assert.holds(subject, at) => return None,
            Instruction::Save(slot) => {
                if let Some(slot) = slots.get_mut(usize::from(slot)) {
                    *slot = at as u32;
                }
                continue;
            }
            _ => continue,
        };
        if !is_match {
            return None;
        }
        at += 1;
    }
    Some(at)
}

struct Vm<'a> {
    program: &'a Program,
    steps: &'a [Instruction],
    subject: &'a [u8],
    /// For each look-around, whether it matches at each offset.
    lookarounds: &'a [Vec<bool>],
    at: usize,
    /// The byte at `at`, or before it if the run is backwards.
    byte: Option<u8>,
    /// The last offset at which each step was visited.
    visited: Vec<u32>,
    /// The slots of the current thread.
    slots: CaptureSlots,
    stack: Vec<PendingStep>,
    found: Option<CaptureSlots>,
    /// For a look-around: whether a match ends at each offset. Replaces `found`.
    match_ends: Option<Vec<bool>>,
}

/// What is left to do at the current offset.
enum PendingStep {
    Follow(usize),
    /// Restores the value of a slot.
    Restore(usize, u32),
}

/// The threads that match the current byte, the preferred one first.
#[derive(Default)]
struct Threads {
    /// The step of each that matches the byte.
    steps: Vec<usize>,
    /// The slots of each.
    slots: CaptureSlots,
}

impl<'a> Vm<'a> {
    fn new(
        program: &'a Program,
        steps: &'a [Instruction],
        subject: &'a [u8],
        lookarounds: &'a [Vec<bool>],
        slot_count: usize,
    ) -> Self {
        Self {
            program,
            steps,
            subject,
            lookarounds,
            at: 0,
            byte: None,
            visited: vec![UNSET; steps.len()],
            slots: vec![UNSET; slot_count],
            stack: Vec::new(),
            found: None,
            match_ends: None,
        }
    }

    /// Runs from `at` to the end of the subject, or backwards to its start. A match can begin at `at`, and at the offsets
    /// that [`Program::next_start`] returns.
    fn run(&mut self, at: usize, is_backwards: bool) {
        let slot_count = self.slots.len();
        let (mut current, mut next) = (Threads::default(), Threads::default());
        self.at = at;
        let mut next_start = Some(at);
        loop {
            if current.steps.is_empty() {
                match next_start {
                    Some(start) if self.found.is_none() => self.at = start,
                    _ => return,
                }
            }
            let byte_at = if is_backwards { self.at.checked_sub(1) } else { Some(self.at) };
            self.byte = byte_at.and_then(|at| self.subject.get(at)).copied();
            for (number, step) in current.steps.drain(..).enumerate() {
                if let Some(slots) = current.slots.get(number * slot_count..(number + 1) * slot_count) {
                    self.slots.copy_from_slice(slots);
                }
                if self.add_threads(step + 1, &mut next) {
                    break;
                }
            }
            current.slots.clear();
            let next_at = if is_backwards { self.at.wrapping_sub(1) } else { self.at + 1 };
            if next_start == Some(self.at) && self.found.is_none() {
                self.slots.fill(UNSET);
                if let Some(start) = self.slots.first_mut() {
                    *start = self.at as u32;
                }
                self.add_threads(0, &mut next);
                next_start = if self.match_ends.is_some() {
                    Some(next_at)
                } else {
                    self.program.next_start(self.subject, next_at)
                };
            }
            if self.byte.is_none() || (self.found.is_some() && slot_count == 0) {
                return;
            }
            self.at = next_at;
            std::mem::swap(&mut current, &mut next);
        }
    }

    /// Adds all threads that lead from `first` to a step that matches the current byte. Returns whether one reached the end
    /// of the program, so that less preferred threads are dropped.
    fn add_threads(&mut self, first: usize, threads: &mut Threads) -> bool {
        self.stack.push(PendingStep::Follow(first));
        while let Some(task) = self.stack.pop() {
            match task {
                PendingStep::Follow(step) if self.follow(step, threads) => {
                    self.stack.clear();
                    return true;
                }
                PendingStep::Follow(_) => {}
                PendingStep::Restore(slot, old) => self.set_slot(slot, old),
            }
        }
        false
    }

    /// Follows a thread from the step `at`, and pushes those that branch off to the stack.
    fn follow(&mut self, mut at: usize, threads: &mut Threads) -> bool {
        loop {
            work::count();
            let (Some(step), Some(visited)) = (self.steps.get(at), self.visited.get_mut(at)) else { return false };
            if std::mem::replace(visited, self.at as u32) == self.at as u32 {
                return false;
            }
            let target = |offset: i16| at.wrapping_add_signed(isize::from(offset));
            let continues = match *step {
                Instruction::Byte { value, case_bit } => {
                    self.byte.is_some_and(|byte| byte | case_bit == value) && threads.add(at, &self.slots)
                }
                Instruction::Set(number) => self.is_byte_in(number) && threads.add(at, &self.slots),
                Instruction::Match => return self.record_match(),
                Instruction::Assert(assert) => assert.holds(self.subject, self.at),
                Instruction::Look { number, is_positive } => self.lookaround_matches(number) == is_positive,
                Instruction::Save(slot) => {
                    let slot = usize::from(slot);
                    if let Some(old) = self.slots.get(slot) {
                        self.stack.push(PendingStep::Restore(slot, *old));
                        self.set_slot(slot, self.at as u32);
                    }
                    true
                }
                Instruction::PreferNext(offset) => {
                    self.stack.push(PendingStep::Follow(target(offset)));
                    true
                }
                Instruction::PreferFar(offset) => {
                    self.stack.push(PendingStep::Follow(at + 1));
                    at = target(offset);
                    continue;
                }
                Instruction::Jump(offset) => {
                    at = target(offset);
                    continue;
                }
            };
            if !continues {
                return false;
            }
            at += 1;
        }
    }

    fn is_byte_in(&self, set: u16) -> bool {
        let set = self.program.sets.get(usize::from(set));
        self.byte.is_some_and(|byte| set.is_some_and(|set| set.contains(byte)))
    }

    fn lookaround_matches(&self, number: u8) -> bool {
        let matches = self.lookarounds.get(usize::from(number));
        matches.and_then(|matches| matches.get(self.at)) == Some(&true)
    }

    fn set_slot(&mut self, slot: usize, to: u32) {
        if let Some(slot) = self.slots.get_mut(slot) {
            *slot = to;
        }
    }

    /// Records a match. Returns whether only preferred threads can still replace it.
    fn record_match(&mut self) -> bool {
        if let Some(match_ends) = &mut self.match_ends {
            if let Some(is_end) = match_ends.get_mut(self.at) {
                *is_end = true;
            }
            return false;
        }
        self.set_slot(1, self.at as u32);
        self.found = Some(self.slots.clone());
        true
    }
}

impl Threads {
    /// Adds a thread, and returns false: it does not continue at the current offset.
    fn add(&mut self, step: usize, slots: &[u32]) -> bool {
        self.steps.push(step);
        self.slots.extend_from_slice(slots);
        false
    }
}

/// Counts the steps of searches, for tests.
pub(super) mod work {
    #[cfg(test)]
    thread_local!(static STEPS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) });

    #[cfg(test)]
    pub(super) fn count() {
        STEPS.set(STEPS.get() + 1);
    }

    #[cfg(not(test))]
    pub(super) const fn count() {}

    /// The steps of this OS thread since the last call.
    #[cfg(test)]
    pub(in crate::regex) fn take() -> usize {
        STEPS.take()
    }
}
