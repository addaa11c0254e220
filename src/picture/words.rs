//! Numbers as pictures show them.

/// `8.5 MB`
pub(super) fn size(bytes: f64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let (mut size, mut unit) = (bytes, 0);
    while size >= 999.5 && unit + 1 < UNITS.len() {
        size /= 1e3;
        unit += 1;
    }
    let digits = usize::from(size < 9.95 && unit > 0 && (size - size.round()).abs() > 0.04);
    format!("{size:.digits$} {}", UNITS[unit])
}

/// `0.031 %`, `4.2 %`, `44 %`
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent <= 0.0 {
        return "0 %".to_owned();
    }
    let digits = (1.0 - percent.log10().floor()).clamp(0.0, 4.0) as usize;
    let text = format!("{percent:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} %")
}

/// A figure of so many digits behind the point, without a sign where it is nothing.
pub(super) fn figure(x: f64, digits: usize) -> String {
    let text = format!("{x:.digits$}");
    match text.strip_prefix('-') {
        Some(size) if size.bytes().all(|c| matches!(c, b'0' | b'.')) => size.to_owned(),
        Some(size) => format!("−{size}"),
        None => text,
    }
}

/// A name that fits into so many letters.
pub(super) fn short(name: &str, letters: usize) -> String {
    let stem = [".safetensors", ".pt", ".pth", ".ckpt", ".bin"]
        .iter()
        .find_map(|ending| name.strip_suffix(ending))
        .unwrap_or(name);
    let all: Vec<char> = crate::error::one_line(stem).chars().collect();
    if all.len() <= letters {
        return all.into_iter().collect();
    }
    // What tells names of one training apart is often at their ends.
    let (head, tail) = (letters.div_ceil(2), letters - letters.div_ceil(2) - 1);
    let head: String = all[..head].iter().collect();
    let tail: String = all[all.len() - tail..].iter().collect();
    format!("{head}…{tail}")
}
