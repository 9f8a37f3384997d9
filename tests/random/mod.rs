//! Pseudo-random numbers, the same in each run.

/// The state of xorshift64*, which is not 0.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// Returns a number less than `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end.max(1)
    }
}
