//! Numbers formatted for people.

/// With commas between thousands.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Three digits and a suitable unit: us, ms or s.
pub(crate) fn microseconds(us: f64) -> String {
    match us {
        ..999.5 => format!("{} us", three_digits(us)),
        ..999_500.0 => format!("{} ms", three_digits(us / 1e3)),
        _ => format!("{} s", three_digits(us / 1e6)),
    }
}

/// Three digits and a suitable unit: B, kB, MB or GB.
pub(crate) fn bytes(bytes: f64) -> String {
    match bytes {
        ..999.5 => format!("{} B", three_digits(bytes)),
        ..999_500.0 => format!("{} kB", three_digits(bytes / 1e3)),
        ..999_500_000.0 => format!("{} MB", three_digits(bytes / 1e6)),
        _ => format!("{} GB", three_digits(bytes / 1e9)),
    }
}

/// Any number with its unit: whole numbers in full, others with three digits.
pub(crate) fn quantity(value: f64, unit: &str) -> String {
    let number = if value.fract() == 0.0 && value >= 0.0 { count(value as u64) } else { three_digits(value) };
    format!("{number} {unit}").trim_end().to_owned()
}

/// With as many decimals as make three digits.
pub(crate) fn three_digits(number: f64) -> String {
    let decimals = match number.abs() {
        0.0 => 0,
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{number:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_have_commas() {
        let table = [(0, "0"), (999, "999"), (1000, "1,000"), (12_345, "12,345"), (1_234_567, "1,234,567")];
        table.into_iter().for_each(|(number, text)| assert_eq!(count(number), text));
    }

    #[test]
    fn whole_numbers_are_shown_in_full() {
        assert_eq!([quantity(2400.0, ""), quantity(1234.5, "B"), quantity(-2.0, "s")], ["2,400", "1234 B", "-2.00 s"]);
    }

    #[test]
    fn three_digits_and_a_unit() {
        let times = [(0.0, "0 us"), (9.996, "10.0 us"), (999.4, "999 us"), (999.6, "1.00 ms"), (1_234_567.0, "1.23 s")];
        times.into_iter().for_each(|(us, text)| assert_eq!(microseconds(us), text));
        let sizes = [(12.0, "12.0 B"), (1e3, "1.00 kB"), (20_460_000.0, "20.5 MB"), (2e9, "2.00 GB")];
        sizes.into_iter().for_each(|(size, text)| assert_eq!(bytes(size), text));
    }
}
