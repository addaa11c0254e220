//! What somebody may have meant.

use super::name::identify;

/// The candidate whose module has the most similar name, for messages; none if nothing is similar.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Less alike than this is something else.
    const ALIKE: f64 = 0.7;
    let path = identify(name).path;
    let scored = candidates
        .into_iter()
        .map(|other| (strsim::normalized_damerau_levenshtein(&path, &identify(other).path), other));
    scored.filter(|(score, _)| *score >= ALIKE).max_by(|x, y| x.0.total_cmp(&y.0)).map(|(_, other)| other)
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
