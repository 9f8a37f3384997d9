//! Named cases of one test: all of them run, and the test fails with a list of those that went wrong.

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::client::show;

/// Runs all cases, and fails with the name and the error of each that went wrong.
pub(crate) fn run_cases<N: Display, F: FnOnce() -> Result<(), String>>(cases: impl IntoIterator<Item = (N, F)>) {
    let run = |(name, case): (N, F)| match catch_unwind(AssertUnwindSafe(case)) {
        Ok(Ok(())) => None,
        Ok(Err(why)) => Some(format!("{name}: {why}")),
        Err(_) => Some(format!("{name}: panicked")),
    };
    let wrong: Vec<String> = cases.into_iter().filter_map(run).collect();
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// A case that may run on another thread.
pub(crate) type Case<'c> = (&'static str, Box<dyn FnOnce() -> Result<(), String> + Send + 'c>);

/// Names a case.
pub(crate) fn case<'c>(name: &'static str, run: impl FnOnce() -> Result<(), String> + Send + 'c) -> Case<'c> {
    (name, Box::new(run))
}

/// As [`run_cases`], all at the same time: for cases that wait.
pub(crate) fn run_concurrently(cases: Vec<Case<'_>>) {
    std::thread::scope(|scope| {
        let running: Vec<_> = cases.into_iter().map(|(name, run)| (name, scope.spawn(run))).collect();
        run_cases(
            running
                .into_iter()
                .map(|(name, thread)| (name, move || thread.join().unwrap_or_else(|_| Err("panicked".to_owned())))),
        );
    });
}

/// Returns `Ok` if `holds`.
pub(crate) fn check(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// Returns `Ok` if both are the same bytes.
pub(crate) fn check_equal(what: &str, got: &[u8], expected: &[u8]) -> Result<(), String> {
    check(got == expected, || format!("{what} got {}\n    instead of {}", show(got), show(expected)))
}
