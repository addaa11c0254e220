//! What somebody may have meant.

use super::name::identify;

/// The candidate whose module has the most similar name, for messages; none if nothing is similar.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    most_alike(name, candidates, 1).pop()
}

/// At most so many of the most similar, the most similar first.
pub fn most_alike<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
    most: usize,
) -> Vec<&'a str> {
    /// Less alike than this is something else.
    const ALIKE: f64 = 0.7;
    let path = identify(name).path;
    let mut scored: Vec<_> = candidates
        .into_iter()
        .map(|other| (strsim::normalized_damerau_levenshtein(&path, &identify(other).path), other))
        .filter(|(score, _)| *score >= ALIKE)
        .collect();
    scored.sort_by(|x, y| y.0.total_cmp(&x.0));
    scored.dedup_by_key(|(_, other)| *other);
    scored.truncate(most);
    scored.into_iter().map(|(_, other)| other).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_similar_name_is_found_in_any_spelling() {
        let candidates = [
            "unet.down_blocks.1.attentions.0.proj_in",
            "unet.mid_block.attentions.0.proj_in",
            "unet.conv_in",
        ];
        assert_eq!(nearest("lora_unet_mid_blok_attentions_0_proj_in", candidates), Some(candidates[1]));
        assert_eq!(nearest("lora_unet_something_else", candidates), None);
    }
}
