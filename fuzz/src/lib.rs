//! What the fuzz targets run: the bodies that `tests/fuzz_corpus.rs` runs too, and for expressions the opinion of PCRE.

use pcre2::bytes::RegexBuilder;
use smolgate::regex::Pattern;

#[path = "../../tests/targets/mod.rs"]
pub mod targets;

/// Steps that PCRE may take for one search, and bytes of heap: it gives up where going back would take long.
const LIMITS: &str = "(*LIMIT_MATCH=20000)(*LIMIT_HEAP=2000)";

/// The whole match and `$1` to `$9`: configurations have no way to name more, and more are not kept.
const GROUPS_MAX: usize = 10;

/// Checks that PCRE finds the same groups at the same places. Nothing is compared where one of the two refuses the
/// expression, or where smolgate documents a difference.
pub fn compare_with_pcre(input: &[u8]) {
    let Some((source, any_case, subject)) = targets::expression(input) else { return };
    // docs/differences.md: the last line feed, and quantifiers that give nothing back. Properties are those
    // of ASCII here, and of Latin-1 in PCRE.
    let differs = ["++", "*+", "?+", "}+", "\\p"].iter().any(|odd| source.contains(odd));
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

/// Whether a group that may match nothing is repeated, as far as the text shows it. PCRE ends the repetition with the
/// first round that matches nothing, and the groups in it are empty then; a search that follows all ways at once doesn't.
fn repeats_nothing(source: &str) -> bool {
    let plain = source.replace("(?:", "(");
    let repeats: usize = [")*", ")+", "){", ")?"].iter().map(|end| plain.matches(end).count()).sum();
    // The only such group may be there or not, if nothing in it may.
    let rest = if repeats == 1 { plain.replace(")*", ")").replace(")?", ")") } else { plain };
    let nothing = ["*", "?", "{0", "{,", "^", "$", "\\b", "\\B", "\\A", "\\z", "(|", "||", "|)", "()"];
    repeats > 0 && nothing.iter().any(|nothing| rest.contains(nothing))
}
