//! CRC-32 as in Ethernet and zip, for the hashing methods.

/// The polynomial, bits reversed.
const POLYNOMIAL: u32 = 0xedb8_8320;

/// A checksum in progress.
#[derive(Clone, Copy)]
pub(super) struct Crc32(u32);

impl Crc32 {
    pub(super) fn new() -> Self {
        Self(u32::MAX)
    }

    pub(super) fn update(self, bytes: &[u8]) -> Self {
        let shift = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
        Self(bytes.iter().fold(self.0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| shift(crc))))
    }

    pub(super) fn finish(self) -> u32 {
        !self.0
    }
}

pub(super) fn checksum(bytes: &[u8]) -> u32 {
    Crc32::new().update(bytes).finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_standard() {
        assert_eq!(checksum(b"123456789"), 0xcbf4_3926);
        assert_eq!(Crc32::new().update(b"1234").update(b"56789").finish(), 0xcbf4_3926);
        assert_eq!(checksum(b""), 0);
    }
}
