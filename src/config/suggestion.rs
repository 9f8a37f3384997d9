//! "Did you mean": the known word that is closest to one that is unknown, by edit distance.

/// Further apart than any two words are.
const FAR: usize = usize::MAX / 2;

/// Returns the candidate closest to `word`, if one is close: at most a third of the letters may differ, and at most three.
pub(crate) fn closest<'c>(word: &str, candidates: &mut dyn Iterator<Item = &'c str>) -> Option<&'c str> {
    let lower = word.to_ascii_lowercase();
    let (mut closest, mut limit) = (None, (lower.len() / 3).clamp(1, 3) + 1);
    for candidate in candidates {
        let distance = distance(&lower, candidate);
        if distance < limit {
            (closest, limit) = (Some(candidate), distance);
        }
    }
    closest
}

/// Counts the insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len().abs_diff(b.len()) > 3 {
        return FAR;
    }
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let at = |row: &[usize], i: usize| row.get(i).copied().unwrap_or(FAR);
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut best = (at(&last, j) + usize::from(x != y)).min(at(&last, j + 1) + 1).min(at(&row, j) + 1);
            if i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x) {
                best = best.min(at(&before_last, j - 1) + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    at(&last, b.len())
}
