//! Numbers as people read them.

/// A share as a percentage of two digits: `0.031 %`, `4.2 %`, `44 %`, `210 %`.
pub(crate) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    match percent.abs() {
        // What float64 itself loses is nothing.
        x if x < 1e-11 => "0 %".to_owned(),
        // Float32 and float64 outputs: only the magnitude tells anything.
        x if x < 9.5e-4 => format!("{percent:.0e} %"),
        x if x < 0.0095 => format!("{percent:.4} %"),
        x if x < 0.095 => format!("{percent:.3} %"),
        x if x < 0.95 => format!("{percent:.2} %"),
        x if x < 9.5 => format!("{percent:.1} %"),
        _ => format!("{percent:.0} %"),
    }
}

/// Bytes in decimal units, as shops and hosts count them: `870 bytes`, `560 kB`, `3.2 MB`, `31 MB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return count(bytes as usize, "byte");
    }
    let mut size = bytes as f64 / 1e3;
    let mut unit = 0;
    // What would be printed as 1000 belongs to the next unit.
    while size >= 999.5 && unit + 1 < UNITS.len() {
        size /= 1e3;
        unit += 1;
    }
    let digits = usize::from(size < 9.95);
    format!("{size:.digits$} {}", UNITS[unit])
}

/// `1 layer`, `97 layers`.
pub(crate) fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// A number of three digits, for columns: `0.125`, `1.50`, `32.0`, `1.2e-5`.
pub(crate) fn digits(x: f64) -> String {
    match x.abs() {
        0.0 => "0".to_owned(),
        size if !(1e-3..1e5).contains(&size) => format!("{x:.1e}"),
        size if size < 1.0 => format!("{x:.3}"),
        size if size < 10.0 => format!("{x:.2}"),
        size if size < 100.0 => format!("{x:.1}"),
        _ => format!("{x:.0}"),
    }
}

/// A number of at most three digits, for sentences: `0.125`, `1.5`, `32`, `1.2e-5`.
pub(crate) fn number(x: f64) -> String {
    let digits = digits(x);
    match digits.contains('.') && !digits.contains('e') {
        true => digits.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => digits,
    }
}

/// Extents: `320×320×3×3`.
pub(crate) fn shape(extents: &[usize]) -> String {
    if extents.is_empty() {
        return "1".to_owned();
    }
    extents.iter().map(usize::to_string).collect::<Vec<_>>().join("×")
}

/// Words as a sentence lists them: `a`, `a and b`, `a, b and c`.
pub(crate) fn list<S: AsRef<str>>(words: &[S]) -> String {
    let words: Vec<_> = words.iter().map(AsRef::as_ref).collect();
    match words.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_have_two_digits_that_tell_something() {
        for (share, text) in [
            (0.0, "0 %"),
            (3.1e-8, "3e-6 %"),
            (0.000_012, "0.0012 %"),
            (0.000_31, "0.031 %"),
            (0.0021, "0.21 %"),
            (0.01, "1.0 %"),
            (0.0996, "10 %"),
            (0.4444, "44 %"),
            (2.1, "210 %"),
        ] {
            assert_eq!(percent(share), text);
        }
    }

    #[test]
    fn sizes_are_decimal() {
        for (bytes, text) in [
            (1, "1 byte"),
            (999, "999 bytes"),
            (1000, "1.0 kB"),
            (999_500, "1.0 MB"),
            (3_240_000, "3.2 MB"),
            (31_400_000, "31 MB"),
            (1_500_000_000, "1.5 GB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn numbers_lose_their_idle_zeros_only_behind_the_point() {
        let expected = [
            (0.0, "0"),
            (1.0, "1"),
            (0.125, "0.125"),
            (10.0, "10"),
            (100.0, "100"),
            (0.000_012, "1.2e-5"),
            (-2.5, "-2.5"),
        ];
        for (x, text) in expected {
            assert_eq!(number(x), text);
        }
        assert_eq!(digits(2.5), "2.50");
    }

    #[test]
    fn lists_end_in_and_and_shapes_are_products() {
        assert_eq!(list(&["a"]), "a");
        assert_eq!(list(&["a", "b", "c"]), "a, b and c");
        assert_eq!(shape(&[8, 4, 3, 3]), "8×4×3×3");
    }
}
