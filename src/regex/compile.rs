//! Parses an expression and emits its program on the way, without a syntax tree: the steps of repeated parts and of
//! alternatives are moved.
//!
//! The grammar is PCRE's without what needs backtracking. Every byte is a character.

use crate::regex::byte_set::ByteSet;
use crate::regex::literals::Literals;
use crate::regex::program::{Assert, Instruction, Lookaround, Program};

/// Steps of a program and its look-arounds: a search may take as many for each byte of a subject. The offset from one step
/// to another has 16 bits.
const STEPS_MAX: usize = 4000;
/// Steps times groups: for each byte of a subject a search may copy twice as many slots.
const STEPS_BY_GROUPS_MAX: usize = 1 << 16;
/// The last group that has a variable without a name: `$9`.
const NUMBERED_GROUP_MAX: usize = 9;
const GROUPS_MAX: usize = 1000;
/// Groups nested in each other.
const NESTING_MAX: u8 = 100;
const LOOKAROUNDS_MAX: usize = 64;

/// An error is one at the offset that the parser has reached.
type ParseResult<T> = Result<T, &'static str>;

/// The letters of flags. The index of a letter is its bit.
const FLAGS: &[u8] = b"imsxU";
const CASELESS: u8 = 1;
const MULTILINE: u8 = 2;
const DOTALL: u8 = 4;
const EXTENDED: u8 = 8;
const UNGREEDY: u8 = 16;

const TOO_BIG: &str =
    "it is too big: more than 4000 steps (each character, class and choice counts, as often as it is repeated)";
const TOO_MANY_GROUPS: &str = "it has too many steps for a named group of so high a number";

/// Numbers and names of the named groups.
pub(super) type GroupNames = Vec<(usize, Box<str>)>;

/// An expression as it is parsed.
pub(super) struct Parsed {
    pub(super) program: Program,
    pub(super) names: GroupNames,
    pub(super) literals: Literals,
}

/// Parses `source`.
pub(super) fn parse(source: &[u8], caseless: bool) -> Result<Parsed, String> {
    let flags = if caseless { CASELESS } else { 0 };
    let mut parser = Parser { source, flags, ..Parser::default() };
    match parser.expression() {
        Ok(literals) => Ok(Parsed { program: parser.program, names: parser.names, literals }),
        Err(error) => Err(format!("{error}, at character {}", parser.at + 1)),
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
    /// The program will run backwards through the subject.
    is_backwards: bool,
    program: Program,
    names: GroupNames,
    /// Steps of the other programs: of look-arounds, and of those that contain the current one.
    steps_elsewhere: usize,
}

/// What matches one byte.
enum Item {
    /// A character. Above 255 it matches nothing.
    Char(u32),
    Class(ByteSet),
}

impl Parser<'_> {
    fn expression(&mut self) -> ParseResult<Literals> {
        self.program.groups = 1;
        let literals = self.alternation()?;
        if self.at < self.source.len() {
            return Err("no \"(\" belongs to this \")\"");
        }
        self.emit(Instruction::Match)?;
        // No variable refers to later groups, so that they are not captured.
        let last_group = self.names.iter().map(|(number, _)| *number).fold(NUMBERED_GROUP_MAX, usize::max);
        self.program.groups = self.program.groups.min(last_group + 1);
        if self.program.steps.len() * self.program.groups > STEPS_BY_GROUPS_MAX {
            return Err(TOO_MANY_GROUPS);
        }
        Ok(literals)
    }

    /// Parses `one|other`, up to the end of the group.
    fn alternation(&mut self) -> ParseResult<Literals> {
        self.depth += 1;
        if self.depth > NESTING_MAX {
            return Err("too many nested groups");
        }
        let mut jumps = Vec::new();
        let mut literals: Option<Literals> = None;
        loop {
            let start = self.program.steps.len();
            let branch = self.concatenation(start)?;
            literals = Some(match literals {
                Some(previous) => previous.or(branch),
                None => branch,
            });
            if self.peek() != Some((b'|', false)) {
                break;
            }
            self.at += 1;
            // PreferNext, this branch, Jump; the other branches follow.
            self.emit(Instruction::Jump(0))?;
            let next_branch = self.program.steps.len() + 1;
            self.program.steps.insert(start, Instruction::PreferNext((next_branch - start) as i16));
            jumps.push(next_branch - 1);
        }
        let end = self.program.steps.len();
        for jump in jumps {
            if let Some(step) = self.program.steps.get_mut(jump) {
                *step = Instruction::Jump((end - jump) as i16);
            }
        }
        self.depth -= 1;
        Ok(literals.unwrap_or_default())
    }

    /// Parses the items of a branch. Its steps begin at `start`.
    fn concatenation(&mut self, start: usize) -> ParseResult<Literals> {
        let mut item_starts = Vec::new();
        let mut is_repeatable = false;
        // Those of the items before the last one, and of the last one.
        let (mut literals, mut last) = (Literals::default(), Literals::default());
        while let Some((byte, quoted)) = self.peek() {
            match byte {
                b'|' | b')' if !quoted => break,
                _ if !quoted && self.is_quantifier(byte) => {
                    let item = item_starts.last().filter(|_| is_repeatable).ok_or("there is nothing to repeat")?;
                    let (min, max) = self.quantifier()?;
                    self.repeat(*item, min, max)?;
                    last = last.repeat(min, max);
                }
                _ => {
                    item_starts.push(self.program.steps.len());
                    self.at += 1;
                    let item = self.item(byte, quoted)?;
                    is_repeatable = item.is_some();
                    literals = literals.concat(std::mem::replace(&mut last, item.unwrap_or_default()));
                }
            }
        }
        if self.is_backwards {
            self.reverse(start, &item_starts);
        }
        Ok(literals.concat(last))
    }

    /// Reverses the items that were emitted from `start` on.
    fn reverse(&mut self, start: usize, item_starts: &[usize]) {
        let steps = self.program.steps.split_off(start);
        let mut end = steps.len();
        for item_start in item_starts.iter().rev() {
            let from = item_start - start;
            self.program.steps.extend_from_slice(steps.get(from..end).unwrap_or_default());
            end = from;
        }
    }

    /// Whether `byte` begins a quantifier. `{` is literal unless a number could follow.
    fn is_quantifier(&self, byte: u8) -> bool {
        match byte {
            b'*' | b'+' | b'?' => true,
            b'{' => matches!(self.source.get(self.at + 1), Some(b'0'..=b'9' | b',' | b' ')),
            _ => false,
        }
    }

    /// Parses `*`, `+`, `?`, `{2}`, `{2,}` or `{2,3}`: minimum and maximum.
    fn quantifier(&mut self) -> ParseResult<(usize, Option<usize>)> {
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

    fn number(&mut self) -> ParseResult<usize> {
        let from = self.at;
        let mut number = 0;
        while let Some(digit @ b'0'..=b'9') = self.source.get(self.at) {
            number = STEPS_MAX.min(number * 10 + usize::from(digit - b'0'));
            self.at += 1;
        }
        if self.at == from { Err("expected a number") } else { Ok(number) }
    }

    /// Repeats the steps from `from` on.
    fn repeat(&mut self, from: usize, min: usize, max: Option<usize>) -> ParseResult<()> {
        let is_lazy = self.eat(b"?") != self.has_flag(UNGREEDY);
        let split = |prefer_far: bool, offset: isize| match prefer_far {
            true => Instruction::PreferFar(offset as i16),
            false => Instruction::PreferNext(offset as i16),
        };
        let repeated = self.program.steps.split_off(from);
        let len = repeated.len() as isize;
        let copies = max.unwrap_or(min.max(1));
        self.check_size(copies.saturating_mul(repeated.len() + 1) + 1)?;
        let steps = &mut self.program.steps;
        if max.is_none() && min == 0 {
            steps.push(split(is_lazy, len + 2));
        }
        for copy in 0..copies {
            if max.is_some() && copy >= min {
                steps.push(split(is_lazy, (copies - copy) as isize * (len + 1)));
            }
            steps.extend_from_slice(&repeated);
        }
        if max.is_none() {
            steps.push(split(!is_lazy, -len));
        }
        Ok(())
    }

    /// Parses the item that begins with `byte`. `None` if a quantifier can't follow.
    fn item(&mut self, byte: u8, quoted: bool) -> ParseResult<Option<Literals>> {
        match byte {
            _ if quoted => self.emit_item(Item::Char(u32::from(byte))),
            b'(' => self.group(),
            b'[' => {
                let class = self.class()?;
                self.emit_item(Item::Class(class))
            }
            b'\\' => self.escape(),
            b'.' => {
                let mut excluded = ByteSet::default();
                if !self.has_flag(DOTALL) {
                    excluded.add_range(u32::from(b'\n'), u32::from(b'\n'));
                }
                self.emit_item(Item::Class(excluded.negated()))
            }
            b'^' => self.emit_assert(if self.has_flag(MULTILINE) { Assert::LineStart } else { Assert::Start }),
            b'$' => self.emit_assert(if self.has_flag(MULTILINE) { Assert::LineEnd } else { Assert::End }),
            _ => self.emit_item(Item::Char(u32::from(byte))),
        }
    }

    /// Parses `...)` of a group.
    fn group(&mut self) -> ParseResult<Option<Literals>> {
        let outer_flags = self.flags;
        let literals = if !self.eat(b"?") {
            self.capture()?
        } else if let Some((_, is_positive, is_behind)) = LOOKAROUNDS.iter().find(|(mark, ..)| self.eat(mark)) {
            self.lookaround(*is_positive, *is_behind)?;
            Literals::default()
        } else if self.eat(b"<") || self.eat(b"P<") {
            self.group_name(b'>')?;
            self.capture()?
        } else if self.eat(b"'") {
            self.group_name(b'\'')?;
            self.capture()?
        } else if self.group_flags()? {
            self.alternation()?
        } else {
            return Ok(None);
        };
        if !self.eat(b")") {
            return Err("expected \")\"");
        }
        self.flags = outer_flags;
        Ok(Some(literals))
    }

    /// Parses the inside of a group that captures.
    fn capture(&mut self) -> ParseResult<Literals> {
        let number = self.program.groups;
        if number == GROUPS_MAX {
            return Err("too many groups");
        }
        self.program.groups += 1;
        self.emit(Instruction::Save(number as u16 * 2))?;
        let literals = self.alternation()?;
        self.emit(Instruction::Save(number as u16 * 2 + 1))?;
        Ok(literals)
    }

    /// Parses the name of a group, up to `terminator`.
    fn group_name(&mut self, terminator: u8) -> ParseResult<()> {
        let unread = self.source.get(self.at..).unwrap_or_default();
        let len = unread.iter().position(|b| !b.is_ascii_alphanumeric() && *b != b'_').unwrap_or(unread.len());
        let (name, rest) = unread.split_at(len);
        if rest.first() != Some(&terminator) || name.first().is_none_or(u8::is_ascii_digit) {
            return Err("expected the name of a group: letters, digits and \"_\"");
        }
        let name = String::from_utf8_lossy(name);
        if self.names.iter().any(|(_, known)| **known == *name) {
            return Err("there is another group of this name");
        }
        self.names.push((self.program.groups, name.into()));
        self.at += len + 1;
        Ok(())
    }

    /// Parses `i)` or `i-s:`. Returns whether the group has a content.
    fn group_flags(&mut self) -> ParseResult<bool> {
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

    /// Parses the inside of a look-around into a program of its own.
    fn lookaround(&mut self, is_positive: bool, is_behind: bool) -> ParseResult<()> {
        let (groups, outer_is_backwards) = (self.program.groups, self.is_backwards);
        let outer = std::mem::take(&mut self.program.steps);
        let outer_len = outer.len();
        self.steps_elsewhere += outer_len;
        self.is_backwards = !is_behind;
        self.alternation()?;
        self.emit(Instruction::Match)?;
        if is_positive && self.program.groups > groups {
            return Err("a group in a look-around can not capture");
        }
        let number = self.program.looks.len();
        if number == LOOKAROUNDS_MAX {
            return Err("it has more than 64 look-arounds");
        }
        self.is_backwards = outer_is_backwards;
        let steps = std::mem::replace(&mut self.program.steps, outer);
        self.steps_elsewhere = self.steps_elsewhere - outer_len + steps.len();
        self.program.looks.push(Lookaround { steps, is_behind });
        self.emit(Instruction::Look { number: number as u8, is_positive })
    }

    /// Parses `^a-z\d[:punct:]]` of a class.
    fn class(&mut self) -> ParseResult<ByteSet> {
        let outer_flags = self.flags;
        // Spaces are literal in a class.
        self.flags &= !EXTENDED;
        let is_negated = self.eat(b"^");
        let mut set = ByteSet::default();
        let mut is_first = true;
        while is_first || self.peek() != Some((b']', false)) {
            is_first = false;
            self.class_range(&mut set)?;
        }
        self.at += 1;
        self.flags = outer_flags;
        if self.has_flag(CASELESS) {
            set.add_other_case();
        }
        Ok(if is_negated { set.negated() } else { set })
    }

    /// Parses a character, a range or a class into `set`. `-` is literal at the ends and next to a class.
    fn class_range(&mut self, set: &mut ByteSet) -> ParseResult<()> {
        let first = match self.class_item()? {
            Item::Char(first) => first,
            Item::Class(class) => {
                set.add_all(&class);
                return Ok(());
            }
        };
        let mut last = first;
        if self.peek() == Some((b'-', false)) {
            self.at += 1;
            // There may be a `\E` in between.
            if self.peek() == Some((b']', false)) {
                set.add_range(first, first);
                set.add_range(u32::from(b'-'), u32::from(b'-'));
                return Ok(());
            }
            match self.class_item()? {
                Item::Char(end) if end < first => return Err("the range ends before it begins"),
                Item::Char(end) => last = end,
                Item::Class(class) => {
                    set.add_all(&class);
                    set.add_range(u32::from(b'-'), u32::from(b'-'));
                }
            }
        }
        set.add_range(first, last);
        Ok(())
    }

    fn class_item(&mut self) -> ParseResult<Item> {
        let (byte, quoted) = self.peek().ok_or("expected \"]\"")?;
        if byte == b'['
            && !quoted
            && let Some(class) = self.posix_class()?
        {
            return Ok(Item::Class(class));
        }
        self.at += 1;
        if byte == b'\\' && !quoted { self.escaped_item() } else { Ok(Item::Char(u32::from(byte))) }
    }

    /// Parses `[:alpha:]` or `[:^alpha:]`. `None` if there is no such class.
    fn posix_class(&mut self) -> ParseResult<Option<ByteSet>> {
        let unread = self.source.get(self.at..).unwrap_or_default();
        let Some(body) = unread.strip_prefix(b"[:") else { return Ok(None) };
        let name = body.split(|b| *b == b':').next().unwrap_or_default();
        if body.get(name.len() + 1) != Some(&b']') {
            return Ok(None);
        }
        let negated_name = name.strip_prefix(b"^");
        let set = ByteSet::named(negated_name.unwrap_or(name)).ok_or("unknown class")?;
        self.at += name.len() + 4;
        Ok(Some(if negated_name.is_some() { set.negated() } else { set }))
    }

    /// Parses what follows a `\` outside of classes.
    fn escape(&mut self) -> ParseResult<Option<Literals>> {
        let assert = match self.source.get(self.at) {
            Some(b'b') => Assert::Boundary,
            Some(b'B') => Assert::NoBoundary,
            Some(b'A') => Assert::Start,
            Some(b'z') => Assert::End,
            _ => {
                let item = self.escaped_item()?;
                return self.emit_item(item);
            }
        };
        self.at += 1;
        self.emit_assert(assert)
    }

    /// Parses what follows a `\` and matches a byte.
    fn escaped_item(&mut self) -> ParseResult<Item> {
        let mark = *self.source.get(self.at).ok_or("expected a character after the \"\\\"")?;
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
            b'v' => return self.vertical_space(),
            b'f' => 0x0c,
            b'r' => b'\r',
            b'0'..=b'9' => return Err("references to groups are not supported"),
            _ if mark.is_ascii_alphabetic() => return Err("unknown escape"),
            _ => mark,
        };
        self.at += 1;
        Ok(Item::Char(u32::from(char)))
    }

    /// Parses the letter of a class, which is negated by a capital letter.
    fn perl_class(&mut self, name: &[u8]) -> ParseResult<Item> {
        let is_negated = self.next().is_some_and(|letter| letter.is_ascii_uppercase());
        let set = ByteSet::named(name).unwrap_or_default();
        Ok(Item::Class(if is_negated { set.negated() } else { set }))
    }

    /// Parses `\v`, all characters that end a line, as in PCRE.
    fn vertical_space(&mut self) -> ParseResult<Item> {
        self.at += 1;
        let mut set = ByteSet::default();
        set.add_range(0x0a, 0x0d);
        set.add_range(0x85, 0x85);
        Ok(Item::Class(set))
    }

    /// Parses one of the Unicode properties that are defined for bytes.
    fn property(&mut self) -> ParseResult<Item> {
        let (_, name) = PROPERTIES.iter().find(|(text, _)| self.eat(text)).ok_or("unknown property")?;
        Ok(Item::Class(ByteSet::named(name).unwrap_or_default()))
    }

    /// Parses `x4f`, with exactly `digits` digits, or `x{4f}`.
    fn hexadecimal(&mut self, digits: usize) -> ParseResult<Item> {
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

    /// Emits a step that matches a byte.
    fn emit_item(&mut self, item: Item) -> ParseResult<Option<Literals>> {
        let set = match item {
            Item::Char(char) if char < 256 => {
                let byte = char as u8;
                let case_bit = if self.has_flag(CASELESS) && byte.is_ascii_alphabetic() { 0x20 } else { 0 };
                self.emit(Instruction::Byte { value: byte | case_bit, case_bit })?;
                return Ok(Some(Literals::from_byte(byte)));
            }
            Item::Char(_) => ByteSet::default(),
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
        self.emit(Instruction::Set(number as u16))?;
        Ok(Some(Literals::from_set(&set)))
    }

    fn emit_assert(&mut self, assert: Assert) -> ParseResult<Option<Literals>> {
        self.emit(Instruction::Assert(assert))?;
        Ok(Some(Literals::default()))
    }

    fn emit(&mut self, step: Instruction) -> ParseResult<()> {
        self.check_size(1)?;
        self.program.steps.push(step);
        Ok(())
    }

    /// Fails if the program would become too big by `steps`.
    fn check_size(&self, steps: usize) -> ParseResult<()> {
        let all = self.steps_elsewhere + self.program.steps.len() + steps;
        if all > STEPS_MAX { Err(TOO_BIG) } else { Ok(()) }
    }

    fn has_flag(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Returns the next character and whether it is quoted. Skips `\Q`, `\E`, comments, and spaces without a meaning.
    fn peek(&mut self) -> Option<(u8, bool)> {
        loop {
            let rest = self.source.get(self.at..)?;
            match rest {
                // A quoted `\Q` is literal.
                [b'\\', mark @ (b'Q' | b'E'), ..] if !(self.quoted && *mark == b'Q') => {
                    self.quoted = *mark == b'Q';
                    self.at += 2;
                }
                [b'#', ..] if !self.quoted && self.has_flag(EXTENDED) => {
                    self.at += rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
                }
                [b'\t'..=b'\r' | b' ', ..] if !self.quoted && self.has_flag(EXTENDED) => self.at += 1,
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

/// What begins a look-around, whether it is positive, and whether it is a look-behind.
const LOOKAROUNDS: [(&[u8], bool, bool); 4] =
    [(b"=", true, false), (b"!", false, false), (b"<=", true, true), (b"<!", false, true)];

const PROPERTIES: [(&[u8], &[u8]); 5] =
    [(b"p{L}", b"alpha"), (b"p{Lu}", b"upper"), (b"p{Ll}", b"lower"), (b"p{N}", b"digit"), (b"p{Nd}", b"digit")];
