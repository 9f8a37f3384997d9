//! Results as Markdown: medians, and ratios to the first column, which is the relay.
//!
//! A ratio is taken within a round, where both sides met the same machine, and then the median is taken over the rounds.
//! So it stays true when the machine is slower in one round than in the next, and may differ a little from the quotient
//! of the two medians.

pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(first: &str, columns: impl IntoIterator<Item = String>) -> Self {
        let head: Vec<String> = std::iter::once(first.to_owned()).chain(columns).collect();
        let rule = vec!["---".to_owned(); head.len()];
        Self { rows: vec![head, rule] }
    }

    pub fn row(&mut self, label: &str, cells: impl IntoIterator<Item = String>) {
        self.rows.push(std::iter::once(label.to_owned()).chain(cells).collect());
    }

    pub fn print(&self) {
        for row in &self.rows {
            println!("| {} |", row.join(" | "));
        }
        println!();
    }
}

/// The median of some numbers; NaN of none.
pub fn median(numbers: impl IntoIterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.into_iter().collect();
    numbers.sort_unstable_by(f64::total_cmp);
    match numbers.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => numbers[count / 2],
        count => f64::midpoint(numbers[count / 2 - 1], numbers[count / 2]),
    }
}

/// The median of one column, with its ratio to the relay's, both given round by round.
pub fn with_ratio(column: &[f64], relay: &[f64]) -> String {
    let ratio = median(column.iter().zip(relay).map(|(own, relay)| own / relay));
    let digits = if ratio < 10.0 { 2 } else { 0 };
    format!("{} ({ratio:.digits$})", short(median(column.iter().copied())))
}

/// The lowest and the highest.
pub fn range(numbers: &[f64]) -> String {
    let lowest = numbers.iter().copied().fold(f64::NAN, f64::min);
    let highest = numbers.iter().copied().fold(f64::NAN, f64::max);
    format!("{} to {}", short(lowest), short(highest))
}

/// Three or more significant digits, as many as a reader can use.
pub fn short(number: f64) -> String {
    match number {
        n if n.is_nan() => "-".to_owned(),
        n if n < 100.0 => format!("{n:.1}"),
        n => format!("{n:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_taken_round_by_round() {
        assert_eq!(with_ratio(&[20.0, 44.0, 60.0], &[10.0, 20.0, 60.0]), "44.0 (2.00)");
        assert_eq!(short(median([1.0, 2.0])), "1.5");
        assert_eq!(short(median([])), "-");
    }
}
