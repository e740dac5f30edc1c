//! The values of options: times, sizes, numbers.

use std::time::Duration;

/// Reads `500ms`, `10s` or `2m`.
pub(crate) fn duration(text: &str) -> Result<Duration, &'static str> {
    const EXPECTED: &str = "expected a time such as 500ms, 10s or 2m";
    let (number, unit) = number_and_unit(text).ok_or(EXPECTED)?;
    let milliseconds = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        _ => None,
    };
    milliseconds.map(Duration::from_millis).ok_or(EXPECTED)
}

/// Reads `512B`, `64KiB`, `10MiB` or `1GiB`.
pub(crate) fn size(text: &str) -> Result<usize, &'static str> {
    const EXPECTED: &str = "expected a size such as 64KiB or 10MiB";
    let (number, unit) = number_and_unit(text).ok_or(EXPECTED)?;
    let factor: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(EXPECTED),
    };
    number.checked_mul(factor).and_then(|bytes| usize::try_from(bytes).ok()).ok_or(EXPECTED)
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit))
}

/// Reads a whole number.
pub(crate) fn number(text: &str) -> Result<usize, &'static str> {
    text.parse().map_err(|_| "expected a whole number, not below 0")
}

/// Reads a whole number of 32 bits.
pub(crate) fn count(text: &str) -> Result<u32, &'static str> {
    text.parse().map_err(|_| "expected a whole number, not below 0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_carry_their_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!((size("64KiB"), size("10MiB"), size("7B")), (Ok(65_536), Ok(10_485_760), Ok(7)));
        for bad in
            ["", "10", "s", "-1s", "1.5s", "10 s", "1h", "99999999999999999999s", "18446744073709551615m"]
        {
            assert!(duration(bad).is_err() && size(bad).is_err(), "{bad:?}");
        }
    }
}
