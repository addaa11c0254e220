//! What a comparison suggests. The thresholds are one table, which the documentation shows.

use super::Comparison;

/// From where on something is worth a sentence.
pub struct Threshold {
    /// What is looked at.
    pub figure: &'static str,
    /// From which value on.
    pub value: f64,
    /// What it then is called.
    pub meaning: &'static str,
}

/// The cosine from which two adapters are taken for trainings of the same thing.
const TWINS: f64 = 0.98;
/// The cosine from which they are aligned.
const ALIGNED: f64 = 0.3;
/// The cosine, below zero, from which they work against each other.
const OPPOSED: f64 = 0.1;
/// The part of what overlaps can have beyond chance from which adapters work in the same spaces.
const SHARED: f64 = 0.3;
/// The share of conflicting signs that is more than the half that unrelated adapters have.
const CONFLICTING: f64 = 0.55;
/// How many times the weakest the strongest is.
const UNEVEN: f64 = 3.0;
/// The kept share of a layer below which it is named.
const CANCELLED: f64 = 0.7;

/// All of them.
pub const THRESHOLDS: [Threshold; 7] = [
    Threshold { figure: "cosine, at least", value: TWINS, meaning: "nearly the same adapter" },
    Threshold { figure: "cosine, at least", value: ALIGNED, meaning: "aligned" },
    Threshold { figure: "cosine, at most", value: -OPPOSED, meaning: "opposed" },
    Threshold {
        figure: "(overlap − chance) / (1 − chance), at least",
        value: SHARED,
        meaning: "in the same spaces",
    },
    Threshold { figure: "sign conflicts, at least", value: CONFLICTING, meaning: "conflicting" },
    Threshold { figure: "strongest norm / weakest, at least", value: UNEVEN, meaning: "uneven" },
    Threshold { figure: "kept of a layer, at most", value: CANCELLED, meaning: "cancelled" },
];

/// Pairs that are named in one sentence, at most.
const NAMED: usize = 3;

/// One sentence for each thing that is to be said.
pub(super) fn of(comparison: &Comparison) -> Vec<String> {
    let Comparison { cosines, overlaps, sign_conflicts, .. } = comparison;
    let active = |i: usize| comparison.inputs[i].norm > 0.0;
    let n = comparison.inputs.len();
    let all: Vec<(usize, usize)> = (0..n)
        .flat_map(|i| (i + 1..n).map(move |j| (i, j)))
        .filter(|(i, j)| active(*i) && active(*j))
        .collect();
    let pairs = |holds: &dyn Fn(usize, usize) -> bool| -> Vec<(usize, usize)> {
        all.iter().copied().filter(|(i, j)| holds(*i, *j)).collect()
    };
    let twins = pairs(&|i, j| cosines[i][j] >= TWINS);
    let aligned = pairs(&|i, j| (ALIGNED..TWINS).contains(&cosines[i][j]));
    let opposed = pairs(&|i, j| cosines[i][j] <= -OPPOSED || sign_conflicts[i][j] >= CONFLICTING);
    let beyond_chance = |i: usize, j: usize| {
        let chance = comparison.chance_overlaps[i][j];
        if chance < 1.0 { (overlaps[i][j] - chance) / (1.0 - chance) } else { 0.0 }
    };
    let crowded = pairs(&|i, j| {
        beyond_chance(i, j) >= SHARED
            && cosines[i][j] < ALIGNED
            && cosines[i][j] > -OPPOSED
            && sign_conflicts[i][j] < CONFLICTING
    });
    let free = all.len() - twins.len() - aligned.len() - opposed.len() - crowded.len();
    let mut advice = Vec::new();
    let mut say = |pairs: &[(usize, usize)], sentence: &str| {
        advice.extend(
            (!pairs.is_empty()).then(|| format!("{} {sentence}", comparison.names(pairs, all.len()))),
        );
    };
    say(
        &twins,
        "are nearly the same adapter, perhaps of one training: their sum is one of them at twice the strength. Leave one \
         out, or let --strategy weighted_average take their mean.",
    );
    say(
        &aligned,
        "are aligned: a sum makes what they share stronger than either has it. Smaller weights, or a mean (--strategy \
         linear, karcher), keep the strength of one.",
    );
    say(
        &opposed,
        "pull in opposite directions in many entries, where a sum takes away from both. --strategy ties or dare_ties with \
         --set density=0.3 to 0.5 lets one sign win; a smaller weight for one of them helps, too.",
    );
    say(
        &crowded,
        "do different things in the same spaces, and may disturb each other there though little cancels. --strategy tsv \
         or iso_c moves them apart.",
    );
    if free == all.len() && !all.is_empty() {
        let whose = if all.len() == 1 { "They are" } else { "All pairs are" };
        advice.push(format!(
            "{whose} close to orthogonal and share little of their spaces: a plain sum keeps all of each, and nothing \
             conflicts."
        ));
    }
    advice.extend(comparison.uneven());
    advice.extend(comparison.cancelled());
    advice
}

impl Comparison {
    /// `a and b`, `a and b, and b and c`, or `All 10 pairs`.
    fn names(&self, pairs: &[(usize, usize)], all: usize) -> String {
        if pairs.len() == all && all > 1 {
            return format!("All {all} pairs");
        }
        let name = |(i, j): &(usize, usize)| format!("{} and {}", self.inputs[*i].name, self.inputs[*j].name);
        let named: Vec<String> = pairs.iter().take(NAMED).map(name).collect();
        match pairs.len().saturating_sub(NAMED) {
            0 => named.join("; "),
            1 => format!("{}; and 1 pair more", named.join("; ")),
            more => format!("{}; and {more} pairs more", named.join("; ")),
        }
    }

    fn uneven(&self) -> Option<String> {
        let some = self.inputs.iter().filter(|input| input.norm > 0.0);
        let strongest = some.clone().max_by(|x, y| x.norm.total_cmp(&y.norm))?;
        let weakest = some.min_by(|x, y| x.norm.total_cmp(&y.norm))?;
        let times = strongest.norm / weakest.norm;
        (times >= UNEVEN).then(|| {
            format!(
                "{} is {times:.1} times as strong as {} and will drown it. Weights even that out; --strategy min_max_norm \
                 or layer_adaptive weigh by norm.",
                strongest.name, weakest.name
            )
        })
    }

    fn cancelled(&self) -> Option<String> {
        let layers: Vec<_> = self.cancelling().into_iter().filter(|layer| layer.kept <= CANCELLED).collect();
        let worst = layers.first()?;
        let (count, kept) = (layers.len(), worst.kept);
        let what = if count == 1 { "One layer cancels".to_owned() } else { format!("{count} layers cancel") };
        Some(format!(
            "{what} to less than {CANCELLED} of what the adapters do there; {} loses most, and keeps {kept:.2}. \
             --block-weights can take one of them out there.",
            worst.name
        ))
    }
}
