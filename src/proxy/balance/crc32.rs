//! CRC-32 as in Ethernet and zip, which the hashing methods are made of.

/// The polynomial of the standard, its bits from low to high.
const POLYNOMIAL: u32 = 0xedb8_8320;

/// A checksum that is not finished.
#[derive(Clone, Copy)]
pub(super) struct Crc(u32);

impl Crc {
    pub(super) fn new() -> Self {
        Self(u32::MAX)
    }

    /// Goes on with `bytes`.
    pub(super) fn with(self, bytes: &[u8]) -> Self {
        let bit = |rest: u32| if rest & 1 == 1 { rest >> 1 ^ POLYNOMIAL } else { rest >> 1 };
        Self(bytes.iter().fold(self.0, |rest, byte| (0..8).fold(rest ^ u32::from(*byte), |rest, _| bit(rest))))
    }

    pub(super) fn value(self) -> u32 {
        !self.0
    }
}

/// The checksum of `bytes`.
pub(super) fn of(bytes: &[u8]) -> u32 {
    Crc::new().with(bytes).value()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_standard() {
        assert_eq!(of(b"123456789"), 0xcbf4_3926);
        assert_eq!(Crc::new().with(b"1234").with(b"56789").value(), 0xcbf4_3926);
        assert_eq!(of(b""), 0);
    }
}
