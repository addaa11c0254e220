//! A file of a few kB can claim layers of any size: what no model has is refused when it is opened, and what thin
//! factors stand for is merged without ever being formed.

mod support;

use std::sync::Arc;

use lycomerge::tensor::Dtype;
use lycomerge::{Adapter, ErrorKind, Merge, Report, Result};
use support::files::{MODULE, safetensors};

const SIDE: usize = 1 << 15;

/// Suffixes and shapes.
type Shapes<'a> = &'a [(&'a str, &'a [usize])];

fn open(shapes: Shapes<'_>, seed: usize) -> Result<Adapter> {
    let number = |i: usize| ((37 * i + 11 * seed) % 23) as f64 / 8.0 - 1.0;
    let tensors: Vec<_> = shapes
        .iter()
        .map(|(suffix, shape)| (format!("{MODULE}.{suffix}"), shape, shape.iter().product()))
        .map(|(name, shape, count): (_, _, usize)| (name, shape, (0..count).map(number).collect::<Vec<_>>()))
        .collect();
    let tensors: Vec<_> =
        tensors.iter().map(|(name, shape, numbers)| (name.as_str(), **shape, numbers.as_slice())).collect();
    Adapter::from_bytes("x.safetensors", safetensors(&tensors, Dtype::F32))
}

#[test]
fn a_layer_that_no_model_has_is_refused_with_file_layer_and_shape() {
    let cases: [(Shapes<'_>, &str); 8] = [
        (&[("lora_up.weight", &[2 * SIDE, 1]), ("lora_down.weight", &[1, 2 * SIDE])], "65536×65536"),
        (&[("lokr_w1", &[SIDE, 1]), ("lokr_w2", &[4, SIDE])], "131072×32768"),
        (&[("lokr_w1", &[181, 181]), ("lokr_w2", &[181, 181])], "32761×32761"),
        (&[("lokr_w1_a", &[SIDE, 1]), ("lokr_w1_b", &[1, SIDE]), ("lokr_w2", &[1, 1])], "32768×32768"),
        (
            &[
                ("hada_w1_a", &[SIDE, 65]),
                ("hada_w1_b", &[65, SIDE]),
                ("hada_w2_a", &[SIDE, 64]),
                ("hada_w2_b", &[64, SIDE]),
            ],
            "32768×32768",
        ),
        (
            &[
                ("lora_up.weight", &[2, 16, 1, 1]),
                ("lora_mid.weight", &[16, 16, 64, 64]),
                ("lora_down.weight", &[16, SIDE, 1, 1]),
            ],
            "2×32768×64×64",
        ),
        (
            &[
                ("lokr_w1", &[1, 1]),
                ("lokr_t2", &[16, 16, 64, 64]),
                ("lokr_w2_a", &[16, 2]),
                ("lokr_w2_b", &[16, SIDE]),
            ],
            "2×32768×64×64",
        ),
        (
            &[
                ("lora_up.weight", &[1, 1]),
                ("lora_mid.weight", &[1, 1, 99, 999, 9]),
                ("lora_down.weight", &[1, SIDE]),
            ],
            "1×29167091712",
        ),
    ];
    for (shapes, says) in cases {
        let error = open(shapes, 1).expect_err(says);
        assert_eq!((error.kind(), error.layer()), (ErrorKind::Format, Some(MODULE)), "{error}");
        assert!(
            error.to_string().starts_with("x.safetensors: ") && error.message().contains(says),
            "{error}"
        );
    }
}

fn merge(inputs: &[Shapes<'_>], options: &[(&str, &str)]) -> Result<Report> {
    let mut merge = Merge::new();
    for (seed, shapes) in inputs.iter().enumerate() {
        merge.add(Arc::new(open(shapes, seed)?), 1.0)?;
    }
    options.iter().try_for_each(|(name, value)| merge.options.set(name, value))?;
    Ok(merge.run_in_memory(&mut |_| true)?.1)
}

// 2³⁰ entries each.
const TALL_WIDE: Shapes<'_> = &[("lokr_w1", &[SIDE, 1]), ("lokr_w2", &[1, SIDE])];
const WIDE_TALL: Shapes<'_> = &[("lokr_w1", &[1, SIDE]), ("lokr_w2", &[SIDE, 1])];
const UNIT: Shapes<'_> = &[("lokr_w1", &[1, 1]), ("lokr_w2_a", &[SIDE, 1]), ("lokr_w2_b", &[1, SIDE])];
const LORA: Shapes<'_> = &[("lora_up.weight", &[SIDE, 1]), ("lora_down.weight", &[1, SIDE])];

#[test]
fn thin_factors_of_a_huge_layer_are_merged_without_forming_it() {
    for inputs in [[TALL_WIDE, TALL_WIDE], [TALL_WIDE, WIDE_TALL], [TALL_WIDE, UNIT], [LORA, WIDE_TALL]] {
        for options in
            [&[][..], &[("format", "lora")], &[("strategy", "layer_adaptive")], &[("quality", "compact")]]
        {
            let report = merge(&inputs, options).unwrap();
            assert!(report.bytes < 300_000, "{inputs:?} {options:?}: {} bytes", report.bytes);
            assert!(
                report.error < 1e-3 || options[0].0 == "quality",
                "{inputs:?} {options:?}: {}",
                report.error
            );
        }
    }
    let report = merge(&[TALL_WIDE, TALL_WIDE], &[("format", "lokr")]).unwrap();
    assert_eq!(report.layers[0].family, "LoKr");
}

#[test]
fn what_would_form_a_huge_layer_is_refused() {
    for options in
        [[("format", "full")], [("format", "loha")], [("format", "lokr")], [("strategy", "min_max_norm")]]
    {
        let error = merge(&[TALL_WIDE, LORA], &options).expect_err(options[0].1);
        assert_eq!((error.kind(), error.layer()), (ErrorKind::Unsupported, Some(MODULE)), "{error}");
        assert!(error.message().contains("32768×32768"), "{error}");
    }
}
