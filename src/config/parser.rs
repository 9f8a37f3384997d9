//! Parses text into a tree of directives: nginx's syntax, `include`, and the position of each word.
//!
//! `include` is the only directive known here. Each error names file, line and column, shows the line with a caret, and
//! gives a hint at the most frequent cause.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use glob::{MatchOptions, Pattern, glob_with};

/// Depth of nested `include`s.
const INCLUDE_DEPTH_MAX: usize = 16;
/// Files of one configuration.
const FILES_MAX: usize = 1024;
/// Includes; a file may be included several times.
const INCLUDES_MAX: usize = 16 * 1024;
/// Bytes of one file.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Bytes of all files.
const TOTAL_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Errors that are reported at once.
const ERRORS_MAX: usize = 20;
/// Depth of nested blocks.
const BLOCK_DEPTH_MAX: usize = 32;

/// A file of the configuration, kept for messages and for `-T`.
#[derive(Debug)]
pub struct SourceFile {
    pub name: String,
    pub text: String,
}

/// The position of a word. Lines and columns count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The index in [`Reader::files`].
    pub file: u32,
    pub line: u32,
    pub column: u32,
}

/// One word of a directive, without its quotes and escapes.
#[derive(Clone, Debug)]
pub struct Word {
    pub text: String,
    pub at: Position,
    pub quoted: bool,
}

impl Word {
    /// Returns an error at this word, which replaces the `{}` of the message.
    pub(crate) fn error(&self, message: &str) -> Error {
        Error::formatted(&self.at, message, &self.text)
    }

    /// Returns the word with its lines joined by spaces: a long header value may be written in several lines, but a header
    /// must not contain line breaks.
    pub(crate) fn joined_lines(&self) -> Self {
        let mut word = self.clone();
        if !word.text.contains(['\r', '\n']) {
            return word;
        }
        word.text.clear();
        for line in self.text.split(['\r', '\n']) {
            let line = line.trim_matches([' ', '\t']);
            if !line.is_empty() && !word.text.is_empty() {
                word.text.push(' ');
            }
            word.text.push_str(line);
        }
        word
    }
}

/// `name argument...;` or `name argument... { ... }`.
#[derive(Clone, Debug)]
pub struct Directive {
    pub name: Word,
    pub args: Vec<Word>,
    pub block: Option<Vec<Self>>,
}

/// The result of reading a part of a configuration.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

/// An error in a configuration, with its position. Boxed, so that each `Result` in this layer stays small.
#[derive(Debug, Clone)]
pub struct Error(Box<ErrorDetails>);

#[derive(Debug, Clone)]
struct ErrorDetails {
    at: Option<Position>,
    /// The file of the position, filled in when parsing ends.
    file: Option<Arc<SourceFile>>,
    message: String,
    hint: Option<String>,
    /// Where the same was said before, and its file.
    first: Option<(Position, Option<Arc<SourceFile>>)>,
    /// Further errors of the configuration.
    more: Vec<Error>,
}

impl Error {
    pub fn new(at: &Position, message: impl Into<String>) -> Self {
        Self::from_message(Some(*at), message.into())
    }

    /// Returns an error that has no position in a file.
    pub fn without_position(message: impl Into<String>) -> Self {
        Self::from_message(None, message.into())
    }

    /// Returns an error with `what` in place of the `{}` of the message.
    pub(crate) fn formatted(at: &Position, message: &str, what: &str) -> Self {
        Self::new(at, fill_in(message, what))
    }

    fn from_message(at: Option<Position>, message: String) -> Self {
        Self(Box::new(ErrorDetails { at, file: None, message, hint: None, first: None, more: Vec::new() }))
    }

    /// Adds another error and all that it has.
    #[must_use]
    pub(crate) fn and(mut self, mut other: Self) -> Self {
        let further = std::mem::take(&mut other.0.more);
        let room = (ERRORS_MAX - 1).saturating_sub(self.0.more.len());
        self.0.more.extend(std::iter::once(other).chain(further).take(room));
        self
    }

    /// Adds the files of the positions, and puts the errors in their order. An error in a file that is included several times
    /// is one.
    #[must_use]
    pub(crate) fn with_files(mut self, files: &[Arc<SourceFile>]) -> Self {
        let mut all = std::mem::take(&mut self.0.more);
        all.push(self);
        all.sort_by_key(|error| error.0.at);
        all.dedup_by(|a, b| (a.0.at, &a.0.message) == (b.0.at, &b.0.message));
        let all = all.into_iter().map(|error| error.with_file_of(files));
        all.reduce(Self::and).unwrap_or_else(|| Self::without_position(""))
    }

    /// Adds the file of the position.
    #[must_use]
    pub(crate) fn with_file_of(mut self, files: &[Arc<SourceFile>]) -> Self {
        let file_of = |at: Position| files.get(at.file as usize).cloned();
        self.0.file = self.0.at.and_then(file_of);
        if let (Some(file), Some(at)) = (&self.0.file, self.0.at)
            && let Some(hint) = file.text.lines().nth(at.line as usize - 1).and_then(typography_hint)
        {
            self.0.hint = Some(hint.to_owned());
        }
        if let Some((at, file)) = &mut self.0.first {
            *file = file_of(*at);
        }
        self
    }

    /// Adds where the same was said before.
    #[must_use]
    pub(crate) fn first_at(mut self, first: Position) -> Self {
        self.0.first = Some((first, None));
        self
    }

    /// Adds a hint with `what` in place of its `{}`.
    #[must_use]
    pub(crate) fn hint_formatted(self, hint: &str, what: &str) -> Self {
        self.hint(fill_in(hint, what))
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }
}

fn fill_in(text: &str, what: &str) -> String {
    let (before, after) = text.split_once("{}").unwrap_or((text, ""));
    [before, what, after].concat()
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_first(f)?;
        self.0.more.iter().try_for_each(|error| write!(f, "\n{error}"))
    }
}

impl Error {
    fn fmt_first(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ErrorDetails { at, file, message, hint, first, more: _ } = &*self.0;
        let Some(at) = at else {
            f.write_str(message)?;
            return hint.as_ref().map_or(Ok(()), |hint| write!(f, " ({hint})"));
        };
        let (name, text) = file.as_ref().map_or(("", ""), |file| (&file.name, &file.text));
        writeln!(f, "{name}:{}:{}: {message}", at.line, at.column)?;
        let line = text.lines().nth(at.line as usize - 1).unwrap_or_default();
        // Of a long line only the part around the position is shown.
        let skip = (at.column as usize).saturating_sub(100);
        let shown: String = line.chars().skip(skip).take(140).map(|c| if c.is_control() { ' ' } else { c }).collect();
        writeln!(f, "{:>5} | {shown}", at.line)?;
        write!(f, "      | {:>width$}", "^", width = at.column as usize - skip)?;
        if let Some(hint) = hint {
            write!(f, " {hint}")?;
        }
        let Some((first, Some(file))) = first else { return Ok(()) };
        write!(f, "{} first at {}:{}", if hint.is_some() { ";" } else { "" }, file.name, first.line)
    }
}

/// Reads the main file and those it includes, within limits of size and number.
pub struct Reader {
    /// The directory of the main file, where relative names start.
    directory: PathBuf,
    pub files: Vec<Arc<SourceFile>>,
    /// The text read so far, counted for each time that a file is included.
    bytes: u64,
    includes: usize,
    depth: usize,
}

impl Reader {
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), files: Vec::new(), bytes: 0, includes: 0, depth: 0 }
    }

    /// Reads and parses a file with its includes.
    pub fn parse_file(&mut self, path: &Path) -> Result<Vec<Directive>> {
        let name = path.display();
        let number = self.read_file(path).map_err(|why| Error::without_position(format!("{name}: {why}")))?;
        self.parse_source(number)
    }

    /// Parses a text with its includes.
    pub fn parse_text(&mut self, name: String, text: String) -> Result<Vec<Directive>> {
        self.files.push(Arc::new(SourceFile { name, text }));
        self.parse_source(self.files.len() - 1)
    }

    fn parse_source(&mut self, number: usize) -> Result<Vec<Directive>> {
        let Some(file) = self.files.get(number).cloned() else { return Ok(Vec::new()) };
        let mut lexer = Lexer::new(&file.text, number as u32);
        self.parse_block(&mut lexer, None, 0).map_err(|error| error.with_file_of(&self.files))
    }

    /// Returns the number of a file, which is read once, however often it is included.
    fn read_file(&mut self, path: &Path) -> Result<usize, String> {
        let name = path.display().to_string();
        self.includes += 1;
        if self.includes > INCLUDES_MAX {
            return Err(format!("exceeds the limit of {INCLUDES_MAX} includes"));
        }
        if let Some((known, file)) = self.files.iter().enumerate().find(|(_, file)| file.name == name) {
            self.bytes += file.text.len() as u64;
            return if self.bytes > TOTAL_BYTES_MAX { Err(too_big()) } else { Ok(known) };
        }
        let text = self.read_text(path)?;
        self.files.push(Arc::new(SourceFile { name, text }));
        Ok(self.files.len() - 1)
    }

    fn read_text(&mut self, path: &Path) -> Result<String, String> {
        let explain = |error: std::io::Error| error.to_string().to_ascii_lowercase();
        let meta = std::fs::metadata(path).map_err(explain)?;
        if !meta.is_file() {
            return Err("is not a regular file".to_owned());
        }
        self.bytes += meta.len();
        if meta.len() > FILE_BYTES_MAX || self.bytes > TOTAL_BYTES_MAX {
            return Err(too_big());
        }
        if self.files.len() >= FILES_MAX {
            return Err(format!("exceeds the limit of {FILES_MAX} files"));
        }
        let bytes = std::fs::read(path).map_err(explain)?;
        if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) || bytes.contains(&0) {
            return Err("is not a UTF-8 text file (it contains NUL bytes)".to_owned());
        }
        if bytes.contains(&b'\r') && !bytes.contains(&b'\n') {
            return Err("has lines that end in CR: LF or CRLF is expected".to_owned());
        }
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned())
    }

    /// Parses directives up to the `}` of the block opened at `opened`, or to the end of the file.
    fn parse_block(
        &mut self,
        lexer: &mut Lexer<'_>,
        opened: Option<&Position>,
        depth: usize,
    ) -> Result<Vec<Directive>> {
        let mut directives = Vec::new();
        loop {
            let name = match (lexer.next_token()?, opened) {
                (Token::Word(name), _) => name,
                (Token::Close, Some(opened)) => {
                    let close = lexer.token_start;
                    if close.column < opened.column && close.line > opened.line {
                        lexer.misaligned_block.get_or_insert((*opened, close));
                    }
                    return Ok(directives);
                }
                (Token::End, None) => return Ok(directives),
                (token, _) => return Err(unexpected_token(&token, opened, lexer)),
            };
            let mut args = Vec::new();
            let end = loop {
                match lexer.next_token()? {
                    Token::Word(word) => args.push(word),
                    end => break end,
                }
            };
            let block = match end {
                Token::Semicolon if name.text == "include" && !name.quoted => {
                    self.include(&name, &args, &mut directives)?;
                    continue;
                }
                Token::Semicolon => None,
                Token::Open if depth >= BLOCK_DEPTH_MAX => {
                    let message = format!("blocks nested more than {BLOCK_DEPTH_MAX} deep");
                    return Err(Error::new(&lexer.token_start, message));
                }
                Token::Open => Some(self.parse_block(lexer, Some(&name.at), depth + 1)?),
                _ => return Err(unterminated(&name, args.last(), &end)),
            };
            directives.push(Directive { name, args, block });
        }
    }

    /// Adds the directives of the included files; a pattern without a match is not an error.
    fn include(&mut self, name: &Word, args: &[Word], directives: &mut Vec<Directive>) -> Result {
        let [pattern] = args else {
            return Err(Error::new(&name.at, "invalid number of arguments in \"include\" directive")
                .hint("one file name or pattern is expected"));
        };
        if self.depth >= INCLUDE_DEPTH_MAX {
            return Err(Error::new(&pattern.at, format!("include depth > {INCLUDE_DEPTH_MAX}"))
                .hint("does a file include itself?"));
        }
        for path in self.included_files(pattern)? {
            let number = self.read_file(&path).map_err(|why| {
                let error = Error::new(&pattern.at, format!("{}: {why}", path.display()));
                match placeholder_hint(&pattern.text) {
                    Some(hint) => error.hint(hint),
                    None => error,
                }
            })?;
            self.depth += 1;
            directives.append(&mut self.parse_source(number)?);
            self.depth -= 1;
        }
        Ok(())
    }

    /// Returns the files that an `include` names, sorted.
    fn included_files(&self, pattern: &Word) -> Result<Vec<PathBuf>> {
        let text = pattern.text.as_str();
        let full = self.directory.join(text);
        if !text.contains(['*', '?', '[']) {
            return Ok(vec![full]);
        }
        let wrong = |hint: &str| pattern.error("invalid pattern \"{}\" in \"include\"").hint(hint);
        // The crate takes `^` as a member of the set, glob(3) as its negation.
        if text.contains("[^") {
            return Err(wrong("to exclude characters write [!...]"));
        }
        let directory = if full == Path::new(text) { String::new() } else { format!("{}/", self.directory.display()) };
        let found = glob_with(&[&Pattern::escape(&directory), text].concat(), GLOB);
        Ok(found.map_err(|why| wrong(why.msg))?.flatten().collect())
    }
}

fn too_big() -> String {
    let (file, all) = (FILE_BYTES_MAX >> 20, TOTAL_BYTES_MAX >> 20);
    format!("is too big: the limit is {file} MiB for a file, {all} MiB for all files")
}

/// As glob(3): a wildcard matches neither a slash nor a leading dot.
const GLOB: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// Returns the error for a token in place of a directive or of the end of the opened block.
fn unexpected_token(token: &Token, opened: Option<&Position>, lexer: &Lexer<'_>) -> Error {
    let at = &lexer.token_start;
    match (token, opened) {
        (Token::Close, _) => Error::new(at, "unexpected \"}\"").hint("no block is open"),
        (Token::Open, _) => Error::new(at, "unexpected \"{\"").hint("the name of a block is expected before it"),
        (Token::End, Some(opened)) => {
            let (block, hint) = match &lexer.misaligned_block {
                Some((block, close)) => {
                    (block, format!("its \"}}\" may be missing: the one of line {} closes it", close.line))
                }
                None => (opened, format!("the block opened here is not closed by line {}", lexer.position.line)),
            };
            Error::new(block, "unexpected end of file, expecting \"}\"").hint(hint)
        }
        _ => Error::new(at, "unexpected \";\""),
    }
}

/// Returns the error for a directive that ends in `}` or the end of the file instead of `;`.
fn unterminated(name: &Word, last: Option<&Word>, end: &Token) -> Error {
    let met = if matches!(end, Token::Close) { "unexpected \"}\"" } else { "unexpected end of file" };
    let line = last.unwrap_or(name).at.line;
    let error = Error::new(&name.at, format!("{met}: \"{}\" is not ended by \";\"", name.text));
    match comment_hint(&name.text) {
        Some(hint) => error.hint(hint),
        None => error.hint(format!("put a \";\" at the end of line {line}")),
    }
}

/// Returns a hint if a line, in which an error was found, has characters that look like others: it was copied from a page.
fn typography_hint(line: &str) -> Option<&'static str> {
    if line.contains('\u{a0}') {
        return Some("the line has a no-break space: write an ordinary space");
    }
    let opens =
        |(before, quote): (char, char)| is_space(before) && matches!(quote, '“' | '”' | '„' | '‘' | '’' | '«' | '»');
    let has_quotes = line.chars().zip(line.chars().skip(1)).any(opens);
    has_quotes.then_some("the line has typographic quotes: write \" or '")
}

/// Returns a hint if a directive begins as comments of other languages do.
pub(crate) fn comment_hint(name: &str) -> Option<&'static str> {
    (name.starts_with("//") || name.starts_with("/*")).then_some("comments begin with \"#\"")
}

/// Returns a hint if the word looks like a placeholder of an example.
pub fn placeholder_hint(text: &str) -> Option<String> {
    let between = |open: char, close: char| {
        let (_, rest) = text.split_once(open)?;
        let (inner, _) = rest.split_once(close)?;
        (!inner.is_empty()).then(|| format!("{open}{inner}{close}"))
    };
    let found = between('<', '>')
        .or_else(|| between('{', '}').filter(|_| !text.contains("${")))
        .or_else(|| text.split_once("__").filter(|(_, rest)| rest.contains("__")).map(|_| text.into()))
        .or_else(|| text.contains("...").then(|| "...".to_owned()))
        .or_else(|| {
            let known = ["YOUR_", "your-", "your_", "HOSTNAME", "CHANGE_ME"];
            known.iter().any(|part| text.contains(part)).then(|| text.into())
        })?;
    Some(format_placeholder_hint(&found))
}

pub(crate) fn format_placeholder_hint(text: &str) -> String {
    fill_in("is \"{}\" a placeholder to be replaced?", text)
}

enum Token {
    Word(Word),
    Semicolon,
    Open,
    Close,
    End,
}

/// Splits a text into words and punctuation, like ngx_conf_read_token.
struct Lexer<'t> {
    rest: std::iter::Peekable<std::str::Chars<'t>>,
    position: Position,
    /// The start of the last token.
    token_start: Position,
    /// The first block whose `}` is further left than the block, and that `}`: it may be the one of the block around it.
    misaligned_block: Option<(Position, Position)>,
    /// The line of the first quoted text of several lines: its closing quote may be missing.
    long_quote: Option<u32>,
}

impl<'t> Lexer<'t> {
    fn new(text: &'t str, file: u32) -> Self {
        let start = Position { file, line: 1, column: 1 };
        let rest = text.chars().peekable();
        Self { rest, position: start, token_start: start, misaligned_block: None, long_quote: None }
    }

    fn next_char(&mut self) -> Option<char> {
        let c = self.rest.next()?;
        if c == '\n' {
            self.position.line += 1;
            self.position.column = 1;
        } else {
            self.position.column += 1;
        }
        Some(c)
    }

    fn next_token(&mut self) -> Result<Token> {
        loop {
            self.token_start = self.position;
            match self.rest.peek().copied() {
                None => return Ok(Token::End),
                Some(c) if is_space(c) => {
                    self.next_char();
                }
                Some('#') => {
                    while self.rest.peek().is_some_and(|c| *c != '\n') {
                        self.next_char();
                    }
                }
                Some(c @ (';' | '{' | '}')) => {
                    self.next_char();
                    return Ok(match c {
                        ';' => Token::Semicolon,
                        '{' => Token::Open,
                        _ => Token::Close,
                    });
                }
                Some(quote @ ('"' | '\'')) => return self.quoted_word(quote),
                Some(_) => return self.bare_word(),
            }
        }
    }

    fn quoted_word(&mut self, quote: char) -> Result<Token> {
        let at = self.position;
        self.next_char();
        let mut text = String::new();
        loop {
            match self.next_char() {
                None => {
                    let hint = match self.long_quote {
                        Some(line) => {
                            format!("a {quote} is missing, perhaps that of the text that begins in line {line}")
                        }
                        None => format!("a {quote} is missing"),
                    };
                    return Err(Error::new(&at, "unexpected end of file in a quoted text").hint(hint));
                }
                Some(c) if c == quote => break,
                Some('\\') => self.escape(&mut text),
                Some(c) => text.push(c),
            }
        }
        let end = self.position.line;
        if end > at.line {
            self.long_quote.get_or_insert(at.line);
        }
        match self.rest.peek().copied() {
            None | Some(';' | '{' | ')') => {}
            Some(c) if is_space(c) => {}
            Some(c) => {
                let error = format!("unexpected \"{c}\"");
                // The text may have taken the opening quote of another text for its end.
                return Err(match end > at.line {
                    true => Error::new(&at, error)
                        .hint(format!("the closing quote may be missing: the text goes on to line {end}")),
                    false => Error::new(&self.position, error).hint("a space or \";\" must follow the quoted text"),
                });
            }
        }
        Ok(Token::Word(Word { text, at, quoted: true }))
    }

    fn bare_word(&mut self) -> Result<Token> {
        let at = self.position;
        let mut text = String::new();
        while let Some(c) = self.rest.peek().copied() {
            match c {
                ';' => break,
                '{' if text.ends_with('$') => {}
                '{' if self.is_repetition() => {
                    return Err(Error::new(&self.position, "unexpected \"{\"")
                        .hint("an expression with \"{\" or \"}\" must be quoted"));
                }
                '{' => break,
                c if is_space(c) => break,
                _ => {}
            }
            self.next_char();
            match c {
                '\\' => self.escape(&mut text),
                c => text.push(c),
            }
        }
        Ok(Token::Word(Word { text, at, quoted: false }))
    }

    /// Whether the rest begins with `{4}`, `{4,}` or `{4,8}`: never a block, but a part of an expression.
    fn is_repetition(&self) -> bool {
        let mut ahead = self.rest.clone().skip(1).skip_while(|c| c.is_ascii_digit() || *c == ',');
        let begins_with_digit = self.rest.clone().nth(1).is_some_and(|c| c.is_ascii_digit());
        begins_with_digit && ahead.next() == Some('}')
    }

    /// Reads the character after a backslash: `\" \' \\` are that character, `\t \r \n` control characters; otherwise
    /// both characters stay.
    fn escape(&mut self, text: &mut String) {
        match self.next_char() {
            Some(c @ ('"' | '\'' | '\\')) => text.push(c),
            Some('t') => text.push('\t'),
            Some('r') => text.push('\r'),
            Some('n') => text.push('\n'),
            Some(c) => text.extend(['\\', c]),
            None => text.push('\\'),
        }
    }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Directive>> {
        Reader::new(Path::new("/nowhere")).parse_text("t.conf".to_owned(), text.to_owned())
    }

    fn flat(directives: &[Directive]) -> String {
        directives
            .iter()
            .map(|d| {
                let words: Vec<_> = std::iter::once(&d.name).chain(&d.args).map(|w| format!("<{}>", w.text)).collect();
                let block = d.block.as_ref().map_or(String::new(), |b| format!("{{{}}}", flat(b)));
                format!("{}{block}", words.concat())
            })
            .collect()
    }

    #[test]
    fn words_are_cut_as_nginx_cuts_them() {
        for (text, expected) in [
            ("a b;# c;\n", "<a><b>"),
            ("a 'b c' \"d\\\"e\" '';", "<a><b c><d\"e><>"),
            ("location ~ ^/(a|b)\\.c$ { }", "<location><~><^/(a|b)\\.c$>{}"),
            ("a ${b}c$d;", "<a><${b}c$d>"),
            ("server\n{\n listen 80;\n}", "<server>{<listen><80>}"),
            ("a x\\;y;", "<a><x\\;y>"),
            ("\u{e9} \\\u{e9}\\tb \"\\\\\u{e9}\";", "<\u{e9}><\\\u{e9}\tb><\\\u{e9}>"),
            ("a b#c;", "<a><b#c>"),
            ("if ($a = \"b\") { return 1; }", "<if><($a><=><b><)>{<return><1>}"),
        ] {
            assert_eq!(flat(&parse(text).unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn slips_are_named_with_their_place() {
        for (text, expected) in [
            (
                "server {\n listen 80\n}",
                "t.conf:2:2: unexpected \"}\": \"listen\" is not ended by \";\"\n    2 |  listen 80\n\
                 \x20     |  ^ put a \";\" at the end of line 2",
            ),
            (
                "http {\n server {\n }\n",
                "t.conf:1:1: unexpected end of file, expecting \"}\"\n    1 | http {\n\
                 \x20     | ^ the block opened here is not closed by line 4",
            ),
            (
                "http {\n server {\n  a;\n server {\n }\n}\n",
                "t.conf:2:2: unexpected end of file, expecting \"}\"\n    2 |  server {\n\
                 \x20     |  ^ its \"}\" may be missing: the one of line 6 closes it",
            ),
            (
                "a \"b;\nc;\nd \"e\";\n",
                "t.conf:1:3: unexpected \"e\"\n    1 | a \"b;\n\
                 \x20     |   ^ the closing quote may be missing: the text goes on to line 3",
            ),
            (
                "a \"b;\nc \" \"d;\n",
                "t.conf:2:5: unexpected end of file in a quoted text\n    2 | c \" \"d;\n\
                 \x20     |     ^ a \" is missing, perhaps that of the text that begins in line 1",
            ),
            ("}", "t.conf:1:1: unexpected \"}\"\n    1 | }\n      | ^ no block is open"),
            (
                "a 'b'c;",
                "t.conf:1:6: unexpected \"c\"\n    1 | a 'b'c;\n      |      ^ a space or \";\" must follow the quoted text",
            ),
            (
                "location ~ ^/a{4}$ { }",
                "t.conf:1:15: unexpected \"{\"\n    1 | location ~ ^/a{4}$ { }\n\
                 \x20     |               ^ an expression with \"{\" or \"}\" must be quoted",
            ),
            (
                "a \"b;",
                "t.conf:1:3: unexpected end of file in a quoted text\n    1 | a \"b;\n      |   ^ a \" is missing",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn blocks_do_not_nest_without_end() {
        let deep = "a {".repeat(100);
        assert!(parse(&deep).unwrap_err().0.message.contains("nested more than"));
    }

    #[test]
    fn placeholders_are_noticed() {
        for text in ["<SERVER_NAME>", "http://{ip}:80", "__PATH__/", "...", "YOUR_DOMAIN"] {
            assert!(placeholder_hint(text).is_some(), "{text}");
        }
        for text in ["example.com", "${host}x", "a__b"] {
            assert!(placeholder_hint(text).is_none(), "{text}");
        }
    }
}
