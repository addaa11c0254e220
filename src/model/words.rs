//! Dots for underscores: which underscores of a path are inside words.

use std::collections::HashSet;
use std::sync::LazyLock;

/// Words of modules' names: of UNets, of transformers (both in both vocabularies), and of text encoders; then those
/// without underscores.
const WORDS: [&str; 4] = [
    "\
     down_blocks up_blocks mid_block transformer_blocks to_q to_k to_v to_out proj_in proj_out conv_in \
     conv_out conv_norm_out conv_shortcut time_emb_proj time_embedding add_embedding linear_1 linear_2 \
     input_blocks middle_block output_blocks in_layers out_layers emb_layers skip_connection time_embed \
     label_emb",
    "\
     single_transformer_blocks to_add_out add_q_proj add_k_proj add_v_proj proj_mlp ff_context \
     norm1_context norm_out norm_q norm_k norm_added_q norm_added_k x_embedder t_embedder y_embedder \
     context_embedder pos_embed time_text_embed timestep_embedder text_embedder guidance_embedder \
     double_blocks single_blocks joint_blocks x_block context_block img_attn txt_attn img_mlp txt_mlp \
     img_mod txt_mod img_in txt_in time_in vector_in guidance_in in_layer out_layer query_norm key_norm \
     final_layer adaLN_modulation cross_attn self_attn text_embedding time_projection",
    "\
     text_model out_proj q_proj k_proj v_proj layer_norm1 layer_norm2 final_layer_norm token_embedding \
     position_embedding text_projection wi_0 wi_1 layer_norm relative_attention_bias",
    "\
     attentions resnets downsamplers upsamplers conv conv1 conv2 norm norm1 norm2 norm3 attn attn1 attn2 ff \
     ffn net proj op out linear lin linear1 linear2 modulation qkv mlp fc1 fc2 encoder layers layer block \
     blocks embeddings SelfAttention DenseReluDense q k v o wo shared head",
];

/// `path` with dots between its words; none if it has words that aren't known, so that the dots would be guessed.
pub(super) fn dotted(path: &str) -> Option<String> {
    static KNOWN: LazyLock<HashSet<&'static str>> =
        LazyLock::new(|| WORDS.iter().flat_map(|words| words.split_whitespace()).collect());
    /// Pieces between underscores that a word has at most.
    const MOST: usize = 4;
    let pieces: Vec<&str> = path.split('_').collect();
    let (mut words, mut at) = (Vec::new(), 0);
    while at < pieces.len() {
        let known = (1..=MOST).rev().find_map(|len| {
            let word = pieces.get(at..at + len)?.join("_");
            (KNOWN.contains(word.as_str()) || is_number(&word)).then_some((word, len))
        });
        let (word, len) = known?;
        words.push(word);
        at += len;
    }
    Some(words.join("."))
}

fn is_number(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_found_for_known_words_and_not_guessed() {
        for path in [
            "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out.0",
            "input_blocks.4.1.transformer_blocks.0.ff.net.0.proj",
            "time_embedding.linear_1",
            "single_transformer_blocks.3.proj_mlp",
            "joint_blocks.3.context_block.adaLN_modulation.1",
            "text_model.encoder.layers.3.layer_norm1",
            "encoder.block.3.layer.0.SelfAttention.relative_attention_bias",
            "encoder.block.3.layer.1.DenseReluDense.wi_0",
        ] {
            assert_eq!(dotted(&path.replace('.', "_")).as_deref(), Some(path));
        }
        assert_eq!(dotted("some_new_block_0_proj"), None);
    }
}
