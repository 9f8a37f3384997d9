//! Results as Markdown: medians, and ratios to the base column, which is mostly the relay.
//!
//! A ratio is computed within a round, where conditions were the same, and then the median over the rounds. So it does not depend
//! on a machine that is slower in one round than in the next, and may differ a little from the quotient of the two medians.

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

/// Returns the median; NaN of no numbers.
pub fn median(numbers: impl IntoIterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.into_iter().collect();
    numbers.sort_unstable_by(f64::total_cmp);
    match numbers.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => numbers[count / 2],
        count => f64::midpoint(numbers[count / 2 - 1], numbers[count / 2]),
    }
}

/// Formats the median of a column with its ratio to the base; both have one number per round.
pub fn with_ratio(column: &[f64], base: &[f64]) -> String {
    let ratio = median(column.iter().zip(base).map(|(own, base)| own / base));
    let digits = if ratio < 10.0 { 2 } else { 0 };
    format!("{} ({ratio:.digits$})", short(median(column.iter().copied())))
}

/// Formats the lowest and the highest number.
pub fn range(numbers: &[f64]) -> String {
    let lowest = numbers.iter().copied().fold(f64::NAN, f64::min);
    let highest = numbers.iter().copied().fold(f64::NAN, f64::max);
    format!("{} to {}", short(lowest), short(highest))
}

/// Formats with at least three significant digits.
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
    fn ratios_are_per_round() {
        assert_eq!(with_ratio(&[20.0, 44.0, 60.0], &[10.0, 20.0, 60.0]), "44.0 (2.00)");
        assert_eq!(short(median([1.0, 2.0])), "1.5");
        assert_eq!(short(median([])), "-");
    }
}
