//! The fuzz targets: those of `tests/fuzz_corpus.rs`, and a comparison of regular expressions with PCRE.

use pcre2::bytes::RegexBuilder;
use smolgate::regex::Pattern;

#[path = "../../tests/targets/mod.rs"]
pub mod targets;

/// Limits of steps and heap of PCRE for one search, against catastrophic backtracking.
const LIMITS: &str = "(*LIMIT_MATCH=20000)(*LIMIT_HEAP=2000)";

/// The whole match and `$1` to `$9`: configurations cannot use more.
const GROUPS_MAX: usize = 10;

/// Checks that PCRE finds the same groups at the same offsets, unless one of the two rejects the expression, or smolgate
/// documents a difference.
pub fn compare_with_pcre(input: &[u8]) {
    let Some((source, any_case, subject)) = targets::expression(input) else { return };
    // docs/differences.md: the last line feed, and possessive quantifiers. Properties are those of ASCII here, and of
    // Latin-1 in PCRE.
    let differs = ["++", "*+", "?+", "}+", "\\p"].iter().any(|syntax| source.contains(syntax));
    if differs || subject.ends_with(b"\n") || repeats_nothing(source) {
        return;
    }
    let Ok(pattern) = Pattern::new(source, any_case) else { return };
    let Ok(theirs) = RegexBuilder::new().caseless(any_case).build(&format!("{LIMITS}{source}")) else { return };
    let Ok(expected) = theirs.captures(subject) else { return };
    let found = pattern.captures(subject);
    assert_eq!(found.is_some(), expected.is_some(), "does it match? {}", input.escape_ascii());
    let (Some(found), Some(expected)) = (found, expected) else { return };
    for number in 0..theirs.captures_len().min(GROUPS_MAX) {
        let place = expected.get(number).map(|group| group.start()..group.end());
        assert_eq!(found.range(number), place, "group {number} of {}", input.escape_ascii());
    }
}

/// Returns whether a group that may be empty is repeated, as far as the text shows it. PCRE ends the repetition with the first
/// empty iteration, which sets the groups in it; a search that follows all alternatives at once does not.
fn repeats_nothing(source: &str) -> bool {
    let plain = source.replace("(?:", "(");
    let repeats: usize = [")*", ")+", "){", ")?"].iter().map(|end| plain.matches(end).count()).sum();
    // A single optional group is fine if its content cannot be empty.
    let rest = if repeats == 1 { plain.replace(")*", ")").replace(")?", ")") } else { plain };
    let nothing = ["*", "?", "{0", "{,", "^", "$", "\\b", "\\B", "\\A", "\\z", "(|", "||", "|)", "()"];
    repeats > 0 && nothing.iter().any(|nothing| rest.contains(nothing))
}
