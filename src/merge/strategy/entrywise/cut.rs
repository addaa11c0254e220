//! The exact k-th largest of many numbers that are read again and again and never held.
//!
//! Numbers are ordered by their bits. A first pass counts how many share their first 16 bits; a second gathers those of
//! the one bucket in which the k-th is, if they are few, or counts them by the next 16 bits. Entries of a layer need two
//! passes; only if very many are nearly the same, one or two more.

/// Bits that a pass tells apart.
const BITS: u32 = 16;

/// Numbers that are gathered at most: 8 MiB.
const FEW: u64 = 1 << 20;

/// Where the `count` largest numbers end: those above the least of them, and so many equal to it, the first by index.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cut {
    /// The least number that is in.
    pub(super) least: f64,
    /// How many that are equal to it are in.
    pub(super) equals: u64,
}

/// The order of numbers as an order of integers; zero has one sign.
fn key(x: f64) -> u64 {
    let bits = (x + 0.0).to_bits();
    if bits >> 63 == 1 { !bits } else { bits | (1 << 63) }
}

fn number(key: u64) -> f64 {
    f64::from_bits(if key >> 63 == 1 { key & !(1 << 63) } else { !key })
}

/// What is known of one cut: the first bits of its least number, and how many of the numbers that begin so are in.
struct Search {
    lane: usize,
    /// Bits that aren't known yet.
    open: u32,
    prefix: u64,
    wanted: u64,
    /// How many begin so.
    inside: u64,
    counts: Vec<u64>,
    gathered: Vec<u64>,
    found: Option<Cut>,
}

impl Search {
    fn begins(&self, key: u64) -> bool {
        self.open == u64::BITS || key >> self.open == self.prefix
    }

    /// Chooses the bucket in which the least number is.
    fn narrow(&mut self, counts: &[u64]) {
        let mut above = 0;
        let bucket = (0..counts.len()).rev().find(|bucket| {
            let reached = above + counts[*bucket] >= self.wanted;
            above += if reached { 0 } else { counts[*bucket] };
            reached
        });
        let bucket = bucket.expect("no more are wanted than there are");
        self.open -= BITS;
        self.prefix = if self.open + BITS == u64::BITS { 0 } else { self.prefix << BITS } | bucket as u64;
        self.wanted -= above;
        self.inside = counts[bucket];
        if self.open == 0 {
            self.found = Some(Cut { least: number(self.prefix), equals: self.wanted });
        }
    }

    /// Finds the least number among those that begin like it.
    fn select(&mut self) {
        let mut keys = std::mem::take(&mut self.gathered);
        let at = keys.len() - self.wanted as usize;
        let (_, least, above) = keys.select_nth_unstable(at);
        let (least, above) = (*least, above.iter().filter(|key| **key > *least).count() as u64);
        self.found = Some(Cut { least: number(least), equals: self.wanted - above });
    }
}

/// Where the largest numbers end, for pairs of a lane of numbers and how many of it (from 1 up to all). `visit` reads all
/// lanes from the beginning: it calls with a lane and its next numbers, the same every time.
pub(super) fn cuts(
    lanes: usize,
    wanted: &[(usize, u64)],
    visit: impl Fn(&mut dyn FnMut(usize, &[f64])),
) -> Vec<Cut> {
    let mut counts = vec![vec![0_u64; 1 << BITS]; lanes];
    visit(&mut |lane, numbers| {
        let counts = &mut counts[lane];
        numbers.iter().for_each(|x| counts[(key(*x) >> (u64::BITS - BITS)) as usize] += 1);
    });
    let search = |(lane, count): &(usize, u64)| {
        let mut search = Search {
            lane: *lane,
            open: u64::BITS,
            prefix: 0,
            wanted: *count,
            inside: 0,
            counts: Vec::new(),
            gathered: Vec::new(),
            found: None,
        };
        search.narrow(&counts[*lane]);
        search
    };
    let mut searches: Vec<Search> = wanted.iter().map(search).collect();
    while searches.iter().any(|search| search.found.is_none()) {
        for search in searches.iter_mut().filter(|search| search.found.is_none()) {
            match search.inside <= FEW {
                true => search.gathered.reserve(search.inside as usize),
                false => search.counts = vec![0; 1 << BITS],
            }
        }
        visit(&mut |lane, numbers| {
            for search in searches.iter_mut().filter(|search| search.lane == lane && search.found.is_none()) {
                for key in numbers.iter().map(|x| key(*x)) {
                    if search.begins(key) {
                        match search.counts.is_empty() {
                            true => search.gathered.push(key),
                            false => {
                                let bucket = (key >> (search.open - BITS)) & ((1 << BITS) - 1);
                                search.counts[bucket as usize] += 1;
                            }
                        }
                    }
                }
            }
        });
        for search in searches.iter_mut().filter(|search| search.found.is_none()) {
            match std::mem::take(&mut search.counts) {
                counts if counts.is_empty() => search.select(),
                counts => search.narrow(&counts),
            }
        }
    }
    searches.into_iter().filter_map(|search| search.found).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(numbers: &[f64], counts: &[u64]) {
        let wanted: Vec<(usize, u64)> = counts.iter().map(|count| (0, *count)).collect();
        let found = cuts(1, &wanted, |take| numbers.chunks(100).for_each(|chunk| take(0, chunk)));
        let mut sorted = numbers.to_vec();
        sorted.sort_by(|x, y| y.total_cmp(x));
        for (count, cut) in counts.iter().zip(found) {
            assert_eq!(cut.least, sorted[*count as usize - 1], "{count}");
            let above = sorted.iter().filter(|x| **x > cut.least).count() as u64;
            assert_eq!(cut.equals, count - above, "{count}");
        }
    }

    #[test]
    fn a_cut_is_the_sorted_order_s_for_numbers_of_any_sign_and_with_equals() {
        let mut state = 5;
        let mut random = || crate::compute::linalg::centred_uniform(&mut state);
        let mut numbers: Vec<f64> = (0..3000).map(|i| random() * 10_f64.powi(i % 9 - 4)).collect();
        numbers.extend((0..500).map(|i| f64::from(i % 7) - 3.0));
        check(&numbers, &[1, 2, 17, 1000, 1749, 2500, 3500]);
        check(&[0.0, -0.0, 0.0], &[1, 2, 3]);
        check(&[f64::MAX, -f64::MAX, f64::MIN_POSITIVE, -1e-320], &[1, 2, 3, 4]);
    }

    #[test]
    fn very_many_numbers_that_are_nearly_the_same_are_told_apart_by_counting() {
        let count = FEW as usize + 10;
        let numbers: Vec<f64> = (0..count).map(|i| 1.0 + f64::EPSILON * ((i * 7919) % 3000) as f64).collect();
        check(&numbers, &[1, count as u64 / 3, count as u64]);
        check(&vec![0.25; count], &[1, 1000, count as u64]);
    }
}
