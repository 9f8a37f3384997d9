//! The arguments of a directive as typed values, or an error that names the argument and what is expected.

use std::time::Duration;

use crate::config::parser::{Directive, Error, Result, Word, placeholder_hint};
use crate::config::values;
use crate::http1::head::Version;

/// Returns the error for an argument the directive does not accept.
pub(crate) fn invalid_value(directive: &Directive, word: &Word, expected: &str) -> Error {
    let wrong = ["invalid value \"", &word.text, "\" in \"", &directive.name.text, "\" directive"].concat();
    Error::new(&word.at, wrong)
        .hint(placeholder_hint(&word.text).unwrap_or_else(|| [expected, " is expected"].concat()))
}

/// Returns argument number `at`, which exists: the builder has checked the count.
pub(crate) fn arg(directive: &Directive, at: usize) -> &Word {
    directive.args.get(at).unwrap_or(&directive.name)
}

pub(crate) fn time(directive: &Directive) -> Result<Duration> {
    let word = arg(directive, 0);
    values::time(&word.text).ok_or_else(|| invalid_value(directive, word, "a time such as 60s, 5m or 1d"))
}

/// Reads a timeout, which can't be 0.
pub(crate) fn timeout(directive: &Directive) -> Result<Duration> {
    let timeout = time(directive)?;
    if timeout.is_zero() {
        let expected =
            "a time above 0 (every wait would be over at once; for \"no limit\" write a long time such as 1y)";
        return Err(invalid_value(directive, arg(directive, 0), expected));
    }
    Ok(timeout)
}

pub(crate) fn switch(directive: &Directive) -> Result<bool> {
    let word = arg(directive, 0);
    values::switch(&word.text).ok_or_else(|| invalid_value(directive, word, "\"on\" or \"off\""))
}

pub(crate) fn size(directive: &Directive, word: &Word) -> Result<u64> {
    values::size(&word.text).ok_or_else(|| invalid_value(directive, word, "a size such as 8k or 10m"))
}

pub(crate) fn number(directive: &Directive, word: &Word) -> Result<u32> {
    values::number(&word.text).ok_or_else(|| invalid_value(directive, word, "a number"))
}

pub(crate) fn http_version(directive: &Directive, word: &Word) -> Result<Version> {
    let is_new = choice(directive, word, "1.0 or 1.1")? == 1;
    Ok(if is_new { Version::Http11 } else { Version::Http10 })
}

/// Returns the index of `word` among `words`, which are written as the error message lists them: `a, b or c`.
pub(crate) fn choice(directive: &Directive, word: &Word, words: &str) -> Result<usize> {
    let mut known = words.split(' ').filter(|known| *known != "or").map(|known| known.trim_end_matches(','));
    known.position(|known| known == word.text).ok_or_else(|| invalid_value(directive, word, words))
}

/// Checks that a header name is a token (RFC 9110 5.1).
pub(crate) fn check_header_name(directive: &Directive, name: &Word) -> Result {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.text.is_empty() || !name.text.bytes().all(token) {
        return Err(invalid_value(directive, name, "the name of a header"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parser::Reader;

    #[test]
    fn a_choice_is_one_of_the_words_and_nothing_between_them() {
        let text = "choice a, b c or d e \"\";".to_owned();
        let directives = Reader::new(".".as_ref()).parse_text("t".to_owned(), text).unwrap();
        let chosen = |word: &Word| choice(&directives[0], word, "a, b, c or d").ok();
        let chosen: Vec<_> = directives[0].args.iter().map(chosen).collect();
        assert_eq!(chosen, [None, Some(1), Some(2), None, Some(3), None, None]);
    }
}
