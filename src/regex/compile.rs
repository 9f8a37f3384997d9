//! Reads an expression and writes its program on the way: parts that are repeated or chosen from are moved, no tree is kept.
//!
//! The grammar is PCRE's, as far as a search that never goes back can follow it. Every byte is a character.

use crate::regex::byte_set::Set;
use crate::regex::literals::Literals;
use crate::regex::program::{Assert, Lookaround, Program, Step};

/// Steps of a program and of what it looks for around places: a search may take as many for each byte of a subject. A
/// way between two has 16 bits.
const STEPS_MAX: usize = 4000;
/// Steps times groups: for each byte of a subject a search may copy twice as many numbers.
const STEPS_BY_GROUPS_MAX: usize = 1 << 16;
/// The number of the last group that has a variable without having a name: `$9`.
const NUMBERED_MAX: usize = 9;
const GROUPS_MAX: usize = 1000;
/// Groups inside of each other.
const NESTED_MAX: u8 = 100;
const LOOKS_MAX: usize = 64;

/// What is wrong with an expression, at the place that the parser has come to.
type Read<T> = Result<T, &'static str>;

/// The letters of flags: each has the bit of its place.
const FLAGS: &[u8] = b"imsxU";
const ANY_CASE: u8 = 1;
const LINES: u8 = 2;
const DOT_IS_ALL: u8 = 4;
const SPACED: u8 = 8;
const LAZY: u8 = 16;

const TOO_BIG: &str =
    "it is too big: more than 4000 steps (each character, class and choice counts, as often as it is repeated)";
const TOO_MANY_GROUPS: &str = "it has too many steps for a named group of so high a number";

/// Groups that have names, by number.
pub(super) type Names = Vec<(usize, Box<str>)>;

/// What is known of an expression.
pub(super) struct Parsed {
    pub(super) program: Program,
    pub(super) names: Names,
    pub(super) literals: Literals,
}

/// Reads `source`.
pub(super) fn parse(source: &[u8], any_case: bool) -> Result<Parsed, String> {
    let flags = if any_case { ANY_CASE } else { 0 };
    let mut parser = Parser { source, flags, ..Parser::default() };
    match parser.whole() {
        Ok(literals) => Ok(Parsed { program: parser.program, names: parser.names, literals }),
        Err(why) => Err(format!("{why}, at character {}", parser.at + 1)),
    }
}

#[derive(Default)]
struct Parser<'s> {
    source: &'s [u8],
    at: usize,
    /// Between `\Q` and `\E`.
    quoted: bool,
    flags: u8,
    depth: u8,
    /// The steps will be met from behind.
    back: bool,
    program: Program,
    names: Names,
    /// Steps of other programs: those that are complete, and those that wait for one inside of them.
    steps_elsewhere: usize,
}

enum Item {
    /// Above 255 it is in no subject.
    Char(u32),
    Class(Set),
}

impl Parser<'_> {
    fn whole(&mut self) -> Read<Literals> {
        self.program.groups = 1;
        let literals = self.choice()?;
        if self.at < self.source.len() {
            return Err("no \"(\" belongs to this \")\"");
        }
        self.push(Step::Match)?;
        // The others can't be asked for, and are not remembered.
        let last = self.names.iter().map(|(number, _)| *number).fold(NUMBERED_MAX, usize::max);
        self.program.groups = self.program.groups.min(last + 1);
        if self.program.steps.len() * self.program.groups > STEPS_BY_GROUPS_MAX {
            return Err(TOO_MANY_GROUPS);
        }
        Ok(literals)
    }

    /// `one|other`, up to the end of the group.
    fn choice(&mut self) -> Read<Literals> {
        self.depth += 1;
        if self.depth > NESTED_MAX {
            return Err("too many groups inside of each other");
        }
        let mut jumps = Vec::new();
        let mut literals: Option<Literals> = None;
        loop {
            let start = self.program.steps.len();
            let branch = self.branch(start)?;
            literals = Some(match literals {
                Some(others) => others.or(branch),
                None => branch,
            });
            if self.peek() != Some((b'|', false)) {
                break;
            }
            self.at += 1;
            // Split, what was written, Jump; the others follow.
            self.push(Step::Jump(0))?;
            let other = self.program.steps.len() + 1;
            self.program.steps.insert(start, Step::Split((other - start) as i16));
            jumps.push(other - 1);
        }
        let end = self.program.steps.len();
        for jump in jumps {
            if let Some(step) = self.program.steps.get_mut(jump) {
                *step = Step::Jump((end - jump) as i16);
            }
        }
        self.depth -= 1;
        Ok(literals.unwrap_or_default())
    }

    /// What follows each other. Its steps begin at `start`.
    fn branch(&mut self, start: usize) -> Read<Literals> {
        let mut items = Vec::new();
        let mut is_repeatable = false;
        // Those of what stands before the last item, and its own.
        let (mut literals, mut last) = (Literals::default(), Literals::default());
        while let Some((byte, quoted)) = self.peek() {
            match byte {
                b'|' | b')' if !quoted => break,
                _ if !quoted && self.repeats(byte) => {
                    let part = items.last().filter(|_| is_repeatable).ok_or("there is nothing to repeat")?;
                    let (min, max) = self.times()?;
                    self.repeat(*part, min, max)?;
                    last = last.repeated(min, max);
                }
                _ => {
                    items.push(self.program.steps.len());
                    self.at += 1;
                    let item = self.item(byte, quoted)?;
                    is_repeatable = item.is_some();
                    literals = literals.then(std::mem::replace(&mut last, item.unwrap_or_default()));
                }
            }
        }
        if self.back {
            self.turn(start, &items);
        }
        Ok(literals.then(last))
    }

    /// Puts the items that were written from `start` on into the order in which they are met from behind.
    fn turn(&mut self, start: usize, items: &[usize]) {
        let steps = self.program.steps.split_off(start);
        let mut end = steps.len();
        for item in items.iter().rev() {
            let from = item - start;
            self.program.steps.extend_from_slice(steps.get(from..end).unwrap_or_default());
            end = from;
        }
    }

    /// Whether a character says how often. `{` is one like others unless it could begin a number.
    fn repeats(&self, mark: u8) -> bool {
        match mark {
            b'*' | b'+' | b'?' => true,
            b'{' => matches!(self.source.get(self.at + 1), Some(b'0'..=b'9' | b',' | b' ')),
            _ => false,
        }
    }

    /// `*`, `+`, `?`, `{2}`, `{2,}`, `{2,3}`: least and most.
    fn times(&mut self) -> Read<(usize, Option<usize>)> {
        match self.next() {
            Some(b'*') => return Ok((0, None)),
            Some(b'+') => return Ok((1, None)),
            Some(b'?') => return Ok((0, Some(1))),
            _ => {}
        }
        let min = self.number()?;
        let max = match self.eat(b",") {
            true if self.eat(b"}") => return Ok((min, None)),
            true => self.number()?,
            false => min,
        };
        if max < min {
            return Err("the second number is less than the first");
        }
        if self.eat(b"}") { Ok((min, Some(max))) } else { Err("expected \"}\"") }
    }

    fn number(&mut self) -> Read<usize> {
        let from = self.at;
        let mut number = 0;
        while let Some(digit @ b'0'..=b'9') = self.source.get(self.at) {
            number = STEPS_MAX.min(number * 10 + usize::from(digit - b'0'));
            self.at += 1;
        }
        if self.at == from { Err("expected a number") } else { Ok(number) }
    }

    /// Repeats what was written from `from` on.
    fn repeat(&mut self, from: usize, min: usize, max: Option<usize>) -> Read<()> {
        let is_lazy = self.eat(b"?") != self.has(LAZY);
        let split = |leave: bool, way: isize| if leave { Step::Prefer(way as i16) } else { Step::Split(way as i16) };
        let part = self.program.steps.split_off(from);
        let len = part.len() as isize;
        let copies = max.unwrap_or(min.max(1));
        self.has_room(copies.saturating_mul(part.len() + 1) + 1)?;
        let steps = &mut self.program.steps;
        if max.is_none() && min == 0 {
            steps.push(split(is_lazy, len + 2));
        }
        for copy in 0..copies {
            if max.is_some() && copy >= min {
                steps.push(split(is_lazy, (copies - copy) as isize * (len + 1)));
            }
            steps.extend_from_slice(&part);
        }
        if max.is_none() {
            steps.push(split(!is_lazy, -len));
        }
        Ok(())
    }

    /// What begins with `byte`. `None`: there is nothing that could be repeated.
    fn item(&mut self, byte: u8, quoted: bool) -> Read<Option<Literals>> {
        match byte {
            _ if quoted => self.write(Item::Char(u32::from(byte))),
            b'(' => self.group(),
            b'[' => {
                let class = self.class()?;
                self.write(Item::Class(class))
            }
            b'\\' => self.escape(),
            b'.' => {
                let mut others = Set::default();
                if !self.has(DOT_IS_ALL) {
                    others.add(u32::from(b'\n'), u32::from(b'\n'));
                }
                self.write(Item::Class(others.negated()))
            }
            b'^' => self.assert(if self.has(LINES) { Assert::LineStart } else { Assert::Start }),
            b'$' => self.assert(if self.has(LINES) { Assert::LineEnd } else { Assert::End }),
            _ => self.write(Item::Char(u32::from(byte))),
        }
    }

    /// `(...)`, behind its bracket.
    fn group(&mut self) -> Read<Option<Literals>> {
        let outer = self.flags;
        let literals = if !self.eat(b"?") {
            self.capture()?
        } else if let Some((_, wanted, behind)) = LOOKS.iter().find(|(mark, ..)| self.eat(mark)) {
            self.look(*wanted, *behind)?;
            Literals::default()
        } else if self.eat(b"<") || self.eat(b"P<") {
            self.name(b'>')?;
            self.capture()?
        } else if self.eat(b"'") {
            self.name(b'\'')?;
            self.capture()?
        } else if self.read_flags()? {
            self.choice()?
        } else {
            return Ok(None);
        };
        if !self.eat(b")") {
            return Err("expected \")\"");
        }
        self.flags = outer;
        Ok(Some(literals))
    }

    fn capture(&mut self) -> Read<Literals> {
        let number = self.program.groups;
        if number == GROUPS_MAX {
            return Err("too many groups");
        }
        self.program.groups += 1;
        self.push(Step::Save(number as u16 * 2))?;
        let literals = self.choice()?;
        self.push(Step::Save(number as u16 * 2 + 1))?;
        Ok(literals)
    }

    /// The name of the group that comes next.
    fn name(&mut self, end: u8) -> Read<()> {
        let rest = self.source.get(self.at..).unwrap_or_default();
        let len = rest.iter().position(|b| !b.is_ascii_alphanumeric() && *b != b'_').unwrap_or(rest.len());
        let (name, behind) = rest.split_at(len);
        if behind.first() != Some(&end) || name.first().is_none_or(u8::is_ascii_digit) {
            return Err("expected the name of a group: letters, digits and \"_\"");
        }
        let name = String::from_utf8_lossy(name);
        if self.names.iter().any(|(_, known)| **known == *name) {
            return Err("there is a group of this name");
        }
        self.names.push((self.program.groups, name.into()));
        self.at += len + 1;
        Ok(())
    }

    /// `i)` or `i-s:`. True: what follows is in the group.
    fn read_flags(&mut self) -> Read<bool> {
        let mut on = true;
        loop {
            let mark = *self.source.get(self.at).ok_or("expected \")\"")?;
            match FLAGS.iter().position(|flag| *flag == mark) {
                Some(bit) if on => self.flags |= 1 << bit,
                Some(bit) => self.flags &= !(1 << bit),
                None if mark == b'-' => on = false,
                None if mark != b':' && mark != b')' => return Err("such a group is not supported"),
                None => {}
            }
            self.at += 1;
            if mark == b':' || mark == b')' {
                return Ok(mark == b':');
            }
        }
    }

    /// `(?=...)` and its kin get programs of their own.
    fn look(&mut self, wanted: bool, behind: bool) -> Read<()> {
        let (groups, back) = (self.program.groups, self.back);
        let outer = std::mem::take(&mut self.program.steps);
        let waiting = outer.len();
        self.steps_elsewhere += waiting;
        self.back = !behind;
        self.choice()?;
        self.push(Step::Match)?;
        if wanted && self.program.groups > groups {
            return Err("what is looked for can not capture");
        }
        let number = self.program.looks.len();
        if number == LOOKS_MAX {
            return Err("it has more than 64 look-arounds");
        }
        self.back = back;
        let steps = std::mem::replace(&mut self.program.steps, outer);
        self.steps_elsewhere = self.steps_elsewhere - waiting + steps.len();
        self.program.looks.push(Lookaround { steps, behind });
        self.push(Step::Look { number: number as u8, wanted })
    }

    /// `[^a-z\d[:punct:]]`, behind its bracket.
    fn class(&mut self) -> Read<Set> {
        let outer = self.flags;
        // Spaces count.
        self.flags &= !SPACED;
        let is_negated = self.eat(b"^");
        let mut set = Set::default();
        let mut is_first = true;
        while is_first || self.peek() != Some((b']', false)) {
            is_first = false;
            self.add_to_class(&mut set)?;
        }
        self.at += 1;
        self.flags = outer;
        if self.has(ANY_CASE) {
            set.fold();
        }
        Ok(if is_negated { set.negated() } else { set })
    }

    /// A character, a range or a class. `-` means itself at the ends and beside a class.
    fn add_to_class(&mut self, set: &mut Set) -> Read<()> {
        let first = match self.class_item()? {
            Item::Char(first) => first,
            Item::Class(class) => {
                set.join(&class);
                return Ok(());
            }
        };
        let mut last = first;
        if self.peek() == Some((b'-', false)) {
            self.at += 1;
            // There may be a `\E` between.
            if self.peek() == Some((b']', false)) {
                set.add(first, first);
                set.add(u32::from(b'-'), u32::from(b'-'));
                return Ok(());
            }
            match self.class_item()? {
                Item::Char(end) if end < first => return Err("the range ends before it begins"),
                Item::Char(end) => last = end,
                Item::Class(class) => {
                    set.join(&class);
                    set.add(u32::from(b'-'), u32::from(b'-'));
                }
            }
        }
        set.add(first, last);
        Ok(())
    }

    fn class_item(&mut self) -> Read<Item> {
        let (byte, quoted) = self.peek().ok_or("expected \"]\"")?;
        if byte == b'['
            && !quoted
            && let Some(class) = self.posix_class()?
        {
            return Ok(Item::Class(class));
        }
        self.at += 1;
        if byte == b'\\' && !quoted { self.escaped() } else { Ok(Item::Char(u32::from(byte))) }
    }

    /// `[:alpha:]` or `[:^alpha:]`
    fn posix_class(&mut self) -> Read<Option<Set>> {
        let rest = self.source.get(self.at..).unwrap_or_default();
        let Some(inner) = rest.strip_prefix(b"[:") else { return Ok(None) };
        let name = inner.split(|b| *b == b':').next().unwrap_or_default();
        if inner.get(name.len() + 1) != Some(&b']') {
            return Ok(None);
        }
        let positive = name.strip_prefix(b"^");
        let set = Set::named(positive.unwrap_or(name)).ok_or("no such class is known")?;
        self.at += name.len() + 4;
        Ok(Some(if positive.is_some() { set.negated() } else { set }))
    }

    /// What is behind a `\`, outside of classes.
    fn escape(&mut self) -> Read<Option<Literals>> {
        let assert = match self.source.get(self.at) {
            Some(b'b') => Assert::Boundary,
            Some(b'B') => Assert::NoBoundary,
            Some(b'A') => Assert::Start,
            Some(b'z') => Assert::End,
            _ => {
                let item = self.escaped()?;
                return self.write(item);
            }
        };
        self.at += 1;
        self.assert(assert)
    }

    /// What is behind a `\`, in a class as well.
    fn escaped(&mut self) -> Read<Item> {
        let mark = *self.source.get(self.at).ok_or("expected a character behind the \"\\\"")?;
        let char = match mark {
            b'd' | b'D' => return self.perl_class(b"digit"),
            b's' | b'S' => return self.perl_class(b"space"),
            b'w' | b'W' => return self.perl_class(b"word"),
            b'p' => return self.property(),
            b'x' => return self.hexadecimal(2),
            b'u' => return self.hexadecimal(4),
            b'U' => return self.hexadecimal(8),
            b'a' => 0x07,
            b'b' => 0x08,
            b't' => b'\t',
            b'n' => b'\n',
            b'v' => return self.vertical(),
            b'f' => 0x0c,
            b'r' => b'\r',
            b'0'..=b'9' => return Err("references to groups are not supported"),
            _ if mark.is_ascii_alphabetic() => return Err("no such escape is known"),
            _ => mark,
        };
        self.at += 1;
        Ok(Item::Char(u32::from(char)))
    }

    /// The class of a letter. A capital is for what is not in it.
    fn perl_class(&mut self, name: &[u8]) -> Read<Item> {
        let is_negated = self.next().is_some_and(|letter| letter.is_ascii_uppercase());
        let set = Set::named(name).unwrap_or_default();
        Ok(Item::Class(if is_negated { set.negated() } else { set }))
    }

    /// `\v`, which is all that ends a line, as in PCRE.
    fn vertical(&mut self) -> Read<Item> {
        self.at += 1;
        let mut set = Set::default();
        set.add(0x0a, 0x0d);
        set.add(0x85, 0x85);
        Ok(Item::Class(set))
    }

    /// The few of Unicode's properties that mean something for bytes.
    fn property(&mut self) -> Read<Item> {
        let (_, name) = PROPERTIES.iter().find(|(text, _)| self.eat(text)).ok_or("no such property is known")?;
        Ok(Item::Class(Set::named(name).unwrap_or_default()))
    }

    /// `x4f`, with so many digits, or `x{4f}`.
    fn hexadecimal(&mut self, digits: usize) -> Read<Item> {
        self.at += 1;
        let in_braces = self.eat(b"{");
        let mut char = 0u32;
        let mut count = 0;
        while in_braces || count < digits {
            if count > 0 && in_braces && self.eat(b"}") {
                break;
            }
            let digit = self.source.get(self.at).and_then(|digit| char::from(*digit).to_digit(16));
            let value = char.checked_mul(16).zip(digit).map(|(high, low)| high | low);
            char = value.ok_or("expected a hexadecimal digit")?;
            self.at += 1;
            count += 1;
        }
        Ok(Item::Char(char))
    }

    /// Writes a step that takes a byte.
    fn write(&mut self, item: Item) -> Read<Option<Literals>> {
        let set = match item {
            Item::Char(char) if char < 256 => {
                let byte = char as u8;
                let or = if self.has(ANY_CASE) && byte.is_ascii_alphabetic() { 0x20 } else { 0 };
                self.push(Step::Byte { is: byte | or, or })?;
                return Ok(Some(Literals::byte(byte)));
            }
            Item::Char(_) => Set::default(),
            Item::Class(set) => set,
        };
        let sets = &mut self.program.sets;
        let number = sets.iter().position(|known| *known == set).unwrap_or(sets.len());
        if number == STEPS_MAX {
            return Err(TOO_BIG);
        }
        if number == sets.len() {
            sets.push(set);
        }
        self.push(Step::Set(number as u16))?;
        Ok(Some(Literals::set(&set)))
    }

    fn assert(&mut self, assert: Assert) -> Read<Option<Literals>> {
        self.push(Step::Assert(assert))?;
        Ok(Some(Literals::default()))
    }

    fn push(&mut self, step: Step) -> Read<()> {
        self.has_room(1)?;
        self.program.steps.push(step);
        Ok(())
    }

    fn has_room(&self, steps: usize) -> Read<()> {
        let all = self.steps_elsewhere + self.program.steps.len() + steps;
        if all > STEPS_MAX { Err(TOO_BIG) } else { Ok(()) }
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The next character and whether it is quoted; `\Q`, `\E` and what has no meaning are left behind.
    fn peek(&mut self) -> Option<(u8, bool)> {
        loop {
            let rest = self.source.get(self.at..)?;
            match rest {
                // A `\Q` in what is quoted is part of it.
                [b'\\', mark @ (b'Q' | b'E'), ..] if !(self.quoted && *mark == b'Q') => {
                    self.quoted = *mark == b'Q';
                    self.at += 2;
                }
                [b'#', ..] if !self.quoted && self.has(SPACED) => {
                    self.at += rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
                }
                [b'\t'..=b'\r' | b' ', ..] if !self.quoted && self.has(SPACED) => self.at += 1,
                rest => return Some((*rest.first()?, self.quoted)),
            }
        }
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.source.get(self.at).copied();
        self.at += usize::from(byte.is_some());
        byte
    }

    fn eat(&mut self, text: &[u8]) -> bool {
        let is_there = self.source.get(self.at..).is_some_and(|rest| rest.starts_with(text));
        if is_there {
            self.at += text.len();
        }
        is_there
    }
}

/// What begins a look-around, whether it is wanted, and whether it is behind.
const LOOKS: [(&[u8], bool, bool); 4] =
    [(b"=", true, false), (b"!", false, false), (b"<=", true, true), (b"<!", false, true)];

const PROPERTIES: [(&[u8], &[u8]); 5] =
    [(b"p{L}", b"alpha"), (b"p{Lu}", b"upper"), (b"p{Ll}", b"lower"), (b"p{N}", b"digit"), (b"p{Nd}", b"digit")];
