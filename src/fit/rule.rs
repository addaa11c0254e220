//! Ranks by rule: how many singular values of a layer are kept, as the resizing scripts of the field define it.
//!
//! The names and definitions are those of sd-scripts' `resize_lora.py` (`--dynamic_method`): a rule looks at the
//! singular values of one layer's ΔW, and a rank that is given besides is the most that it may say.

/// A rule that chooses a layer's rank by its singular values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RankRule {
    /// Those above the largest divided by this.
    Ratio(f64),
    /// The fewest whose sum is at least this share of the sum of all.
    Cumulative(f64),
    /// The fewest whose Frobenius norm, √Σσ², is at least this share of that of all.
    Frobenius(f64),
}

impl RankRule {
    /// Whether the smallest values matter, too.
    pub(super) fn needs_all(self) -> bool {
        matches!(self, Self::Cumulative(_))
    }

    /// The share of Σσ² that it may leave out, where the leading values tell its rank; the smaller ones are lost in the
    /// rounding of the larger ones below some roundoffs.
    pub(super) fn left_out(self) -> Option<f64> {
        match self {
            Self::Ratio(ratio) => Some(ratio.powi(-2)),
            Self::Cumulative(_) => None,
            Self::Frobenius(share) => Some(1.0 - share * share),
        }
    }

    /// The rank, from the leading singular values, largest first, and the sum of the squares of all; at least one.
    pub(super) fn rank(self, sigma: &[f64], squares: f64) -> usize {
        let fewest = |share: f64, whole: f64, part: fn(&f64) -> f64| {
            let mut sum = 0.0;
            let reaches = |sigma| {
                sum += part(sigma);
                sum >= share * whole
            };
            sigma.iter().position(reaches).map_or(sigma.len(), |last| last + 1)
        };
        let rank = match self {
            Self::Ratio(ratio) => sigma.partition_point(|value| *value > sigma[0] / ratio),
            Self::Cumulative(share) => fewest(share, sigma.iter().sum(), |value| *value),
            Self::Frobenius(share) => fewest(share * share, squares, |value| value * value),
        };
        rank.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_keep_what_their_definitions_say() {
        let sigma = [8.0, 4.0, 2.0, 1.0, 1.0];
        let squares = sigma.iter().map(|x| x * x).sum();
        for (rule, rank) in [
            (RankRule::Ratio(1.0), 1),
            (RankRule::Ratio(2.0), 1),
            (RankRule::Ratio(2.1), 2),
            (RankRule::Ratio(8.5), 5),
            (RankRule::Cumulative(0.5), 1),
            (RankRule::Cumulative(0.51), 2),
            (RankRule::Cumulative(1.0), 5),
            // 64, 80, 84 of 86.
            (RankRule::Frobenius((64.0_f64 / 86.0).sqrt() - 1e-9), 1),
            (RankRule::Frobenius((64.0_f64 / 86.0).sqrt() + 1e-9), 2),
            (RankRule::Frobenius(1.0), 5),
        ] {
            assert_eq!(rule.rank(&sigma, squares), rank, "{rule:?}");
        }
    }
}
