//! Runs a program over a subject, in time that grows with the length of both: all ways through the program are followed at
//! once, a byte at a time, and where two meet in one step, the one that came first has the better claim (a Pike VM).
//!
//! What an expression looks for around a place is searched before all else, and marked: what lies behind a place in the
//! direction of the bytes, what lies ahead of it against it.

use crate::regex::program::{Lookaround, Program, Step};

/// A group that captured nothing, and the mark of a step that was not seen.
pub(super) const NOWHERE: u32 = u32::MAX;

/// Where groups begin and end, in turns.
pub(super) type Slots = Vec<u32>;

/// Where the first match in `subject` and its groups lie; with `width` 0 whether there is one, which is faster.
pub(super) fn find(program: &Program, subject: &[u8], width: usize) -> Option<Slots> {
    let start = program.next_place(subject, 0)?;
    if !program.may_match(subject) {
        return None;
    }
    if program.straight {
        return find_straight(program, subject, start, width);
    }
    let mut marks: Vec<Vec<bool>> = Vec::new();
    for Lookaround { steps, behind } in &program.looks {
        let mut search = Search::new(program, steps, subject, &marks, 0);
        search.marking = Some(vec![false; subject.len() + 1]);
        search.run(if *behind { 0 } else { subject.len() }, !behind);
        let marked = search.marking.unwrap_or_default();
        marks.push(marked);
    }
    let mut search = Search::new(program, &program.steps, subject, &marks, width);
    search.run(start, false);
    search.found
}

/// Like `find`, for a program without choices: its steps are compared at one place after the other.
fn find_straight(program: &Program, subject: &[u8], start: usize, width: usize) -> Option<Slots> {
    let mut slots = vec![NOWHERE; width];
    let mut next = Some(start);
    while let Some(start) = next {
        let end = follow_straight(program, subject, start, &mut slots);
        if let Some(end) = end {
            if let [from, to, ..] = slots.as_mut_slice() {
                (*from, *to) = (start as u32, end as u32);
            }
            return Some(slots);
        }
        next = program.next_place(subject, start + 1);
    }
    None
}

/// Where a match that begins at `at` ends.
fn follow_straight(program: &Program, subject: &[u8], mut at: usize, slots: &mut [u32]) -> Option<usize> {
    for step in &program.steps {
        work::count();
        let byte = subject.get(at).copied();
        let takes = match *step {
            Step::Byte { is, or } => byte? | or == is,
            Step::Set(number) => program.sets.get(usize::from(number))?.has(byte?),
            Step::Assert(assert) if !assert.holds(subject, at) => return None,
            Step::Save(slot) => {
                if let Some(slot) = slots.get_mut(usize::from(slot)) {
                    *slot = at as u32;
                }
                continue;
            }
            _ => continue,
        };
        if !takes {
            return None;
        }
        at += 1;
    }
    Some(at)
}

struct Search<'a> {
    program: &'a Program,
    steps: &'a [Step],
    subject: &'a [u8],
    /// Where each look-around holds.
    marks: &'a [Vec<bool>],
    at: usize,
    /// The byte that comes next.
    byte: Option<u8>,
    /// The place where each step was seen last.
    seen: Vec<u32>,
    /// The groups of the way that is followed.
    slots: Slots,
    stack: Vec<Task>,
    found: Option<Slots>,
    /// Instead of the first match: where any ends.
    marking: Option<Vec<bool>>,
}

/// What is left to do at a place.
enum Task {
    Follow(usize),
    /// A slot gets back what it held.
    Restore(usize, u32),
}

/// The ways that go on behind the next byte, the best first.
#[derive(Default)]
struct Ways {
    /// Where they stand: the step of the byte.
    steps: Vec<usize>,
    /// The slots of each.
    slots: Slots,
}

impl<'a> Search<'a> {
    fn new(program: &'a Program, steps: &'a [Step], subject: &'a [u8], marks: &'a [Vec<bool>], width: usize) -> Self {
        Self {
            program,
            steps,
            subject,
            marks,
            at: 0,
            byte: None,
            seen: vec![NOWHERE; steps.len()],
            slots: vec![NOWHERE; width],
            stack: Vec::new(),
            found: None,
            marking: None,
        }
    }

    /// Goes over the subject from `at` on, or back. A match may begin there and in the places that the program says.
    fn run(&mut self, at: usize, back: bool) {
        let width = self.slots.len();
        let (mut now, mut then) = (Ways::default(), Ways::default());
        self.at = at;
        let mut begin = Some(at);
        loop {
            if now.steps.is_empty() {
                match begin {
                    Some(place) if self.found.is_none() => self.at = place,
                    _ => return,
                }
            }
            let before = if back { self.at.checked_sub(1) } else { Some(self.at) };
            self.byte = before.and_then(|at| self.subject.get(at)).copied();
            for (number, step) in now.steps.drain(..).enumerate() {
                if let Some(slots) = now.slots.get(number * width..(number + 1) * width) {
                    self.slots.copy_from_slice(slots);
                }
                if self.follow(step + 1, &mut then) {
                    break;
                }
            }
            now.slots.clear();
            let next = if back { self.at.wrapping_sub(1) } else { self.at + 1 };
            if begin == Some(self.at) && self.found.is_none() {
                self.slots.fill(NOWHERE);
                if let Some(start) = self.slots.first_mut() {
                    *start = self.at as u32;
                }
                self.follow(0, &mut then);
                begin = if self.marking.is_some() { Some(next) } else { self.program.next_place(self.subject, next) };
            }
            if self.byte.is_none() || (self.found.is_some() && width == 0) {
                return;
            }
            self.at = next;
            std::mem::swap(&mut now, &mut then);
        }
    }

    /// Follows a way up to bytes that match the next one. True: it was at the end of the program, and what comes after it
    /// has no claim.
    fn follow(&mut self, first: usize, ways: &mut Ways) -> bool {
        self.stack.push(Task::Follow(first));
        while let Some(task) = self.stack.pop() {
            match task {
                Task::Follow(step) if self.follow_one(step, ways) => {
                    self.stack.clear();
                    return true;
                }
                Task::Follow(_) => {}
                Task::Restore(slot, old) => self.set(slot, old),
            }
        }
        false
    }

    /// Follows a way, and leaves the others to the stack.
    fn follow_one(&mut self, mut at: usize, ways: &mut Ways) -> bool {
        loop {
            work::count();
            let (Some(step), Some(seen)) = (self.steps.get(at), self.seen.get_mut(at)) else { return false };
            if std::mem::replace(seen, self.at as u32) == self.at as u32 {
                return false;
            }
            let far = |way: i16| at.wrapping_add_signed(isize::from(way));
            let goes_on = match *step {
                Step::Byte { is, or } => self.byte.is_some_and(|byte| byte | or == is) && ways.add(at, &self.slots),
                Step::Set(number) => self.is_in(number) && ways.add(at, &self.slots),
                Step::Match => return self.matched(),
                Step::Assert(assert) => assert.holds(self.subject, self.at),
                Step::Look { number, wanted } => self.is_marked(number) == wanted,
                Step::Save(slot) => {
                    let slot = usize::from(slot);
                    if let Some(old) = self.slots.get(slot) {
                        self.stack.push(Task::Restore(slot, *old));
                        self.set(slot, self.at as u32);
                    }
                    true
                }
                Step::Split(way) => {
                    self.stack.push(Task::Follow(far(way)));
                    true
                }
                Step::Prefer(way) => {
                    self.stack.push(Task::Follow(at + 1));
                    at = far(way);
                    continue;
                }
                Step::Jump(way) => {
                    at = far(way);
                    continue;
                }
            };
            if !goes_on {
                return false;
            }
            at += 1;
        }
    }

    fn is_in(&self, set: u16) -> bool {
        let set = self.program.sets.get(usize::from(set));
        self.byte.is_some_and(|byte| set.is_some_and(|set| set.has(byte)))
    }

    fn is_marked(&self, look: u8) -> bool {
        let marks = self.marks.get(usize::from(look));
        marks.and_then(|marks| marks.get(self.at)) == Some(&true)
    }

    fn set(&mut self, slot: usize, to: u32) {
        if let Some(slot) = self.slots.get_mut(slot) {
            *slot = to;
        }
    }

    /// True: it ends the search, but for ways that are better.
    fn matched(&mut self) -> bool {
        if let Some(marks) = &mut self.marking {
            if let Some(mark) = marks.get_mut(self.at) {
                *mark = true;
            }
            return false;
        }
        self.set(1, self.at as u32);
        self.found = Some(self.slots.clone());
        true
    }
}

impl Ways {
    /// False: such a way goes no further at this place.
    fn add(&mut self, step: usize, slots: &[u32]) -> bool {
        self.steps.push(step);
        self.slots.extend_from_slice(slots);
        false
    }
}

/// The steps that searches took, for tests.
pub(super) mod work {
    #[cfg(test)]
    thread_local!(static STEPS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) });

    #[cfg(test)]
    pub(super) fn count() {
        STEPS.set(STEPS.get() + 1);
    }

    #[cfg(not(test))]
    pub(super) const fn count() {}

    /// Those of this thread since the last call.
    #[cfg(test)]
    pub(in crate::regex) fn take() -> usize {
        STEPS.take()
    }
}
