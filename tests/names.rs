//! Adapters of one model merge whatever they call its modules, and come back from every naming byte for byte.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::Arc;

use faer::Mat;
use lycomerge::adapter::Param;
use lycomerge::file::Writer;
use lycomerge::model::{Naming, identify};
use lycomerge::tensor::{Dtype, encode};
use lycomerge::{Adapter, ErrorKind, Merge, Report};

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// A module: its kohya name, its outputs, its inputs with the kernel.
type Module = (String, usize, Vec<usize>);

fn file(tensors: &Tensors) -> Adapter {
    let mut writer = Writer::new(Cursor::new(Vec::new()), "made".into(), 1 << 20).unwrap();
    for (name, (dtype, shape, data)) in tensors {
        writer.push(name, *dtype, shape, data).unwrap();
    }
    Adapter::from_bytes("made", writer.finish(BTreeMap::new()).unwrap().0.into_inner()).unwrap()
}

fn tensors(adapter: &Adapter) -> Tensors {
    let file = adapter.file();
    let tensor = |name: &str| {
        let view = file.get(name).unwrap();
        (name.to_owned(), (view.dtype, view.shape.to_vec(), view.data.to_vec()))
    };
    file.names().map(tensor).collect()
}

struct Maker {
    /// SplitMix64.
    state: u64,
    tensors: Tensors,
}

impl Maker {
    fn new(seed: u64) -> Self {
        Self { state: seed, tensors: Tensors::new() }
    }

    /// Between −1 and 1.
    fn number(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as f64 / 2_f64.powi(63) - 1.0
    }

    fn push(&mut self, name: String, shape: &[usize], numbers: &[f64]) {
        let mut data = Vec::new();
        encode(numbers, Dtype::F16, &mut data).unwrap();
        self.tensors.insert(name, (Dtype::F16, shape.to_vec(), data));
    }

    fn random(&mut self, name: String, shape: &[usize]) {
        let count: usize = shape.iter().product();
        let numbers: Vec<f64> = (0..count).map(|_| self.number()).collect();
        self.push(name, shape, &numbers);
    }

    fn lora(&mut self, module: &str, rows: usize, inputs: &[usize], alpha: f64) {
        let ones = vec![1; inputs.len() - 1];
        self.random(format!("{module}.lora_down.weight"), &[&[2], inputs].concat());
        self.random(format!("{module}.lora_up.weight"), &[&[rows, 2], &ones[..]].concat());
        self.push(format!("{module}.alpha"), &[], &[alpha]);
    }
}

/// The modules of a model that a bench's workload has, small.
fn listed(model: &str) -> Vec<Module> {
    let text = std::fs::read_to_string(format!("benches/shapes/{model}.tsv")).unwrap();
    let row = |line: &str| {
        let fields: Vec<&str> = line.split('\t').collect();
        let small = |field: &str| (field.parse::<usize>().unwrap() / 512).max(2);
        let kernel = fields[3].split('x').filter_map(|k| k.parse().ok());
        // Models are told apart by what comes from the text.
        let context = fields[0].contains("attn2.to_") && !fields[0].ends_with('q');
        let cols = if context { fields[2].parse().unwrap() } else { small(fields[2]) };
        let inputs = [cols].into_iter().chain(kernel).collect();
        (format!("lora_{}", fields[0].replace('.', "_")), small(fields[1]), inputs)
    };
    text.lines().skip(1).map(row).collect()
}

/// The first blocks of each kind.
fn some(mut modules: Vec<Module>) -> Vec<Module> {
    let later = |name: &str, word: &str| {
        let number =
            name.split_once(word).and_then(|(_, rest)| rest.split('_').next()?.parse::<usize>().ok());
        number.is_some_and(|number| number > 1)
    };
    let words = ["transformer_blocks_", "_layers_", "double_blocks_", "single_blocks_", "encoder_block_"];
    modules.retain(|(name, ..)| !words.iter().any(|word| later(name, word)));
    modules
}

/// SD3's, with the smaller modulation of its last block.
fn sd3() -> Vec<Module> {
    let mut modules = Vec::new();
    let mut add = |name: String, rows| modules.push((format!("lora_unet_{name}"), rows, vec![4]));
    for block in 0..24 {
        for side in ["x_block", "context_block"] {
            let at = format!("joint_blocks_{block}_{side}");
            add(format!("{at}_attn_qkv"), 12);
            let last = block == 23 && side == "context_block";
            add(format!("{at}_adaLN_modulation_1"), if last { 8 } else { 24 });
            for name in ["attn_proj", "mlp_fc1", "mlp_fc2"] {
                if !last {
                    add(format!("{at}_{name}"), 4);
                }
            }
        }
    }
    for name in ["context_embedder", "t_embedder_mlp_0", "y_embedder_mlp_2", "final_layer_linear"] {
        add(name.to_owned(), 4);
    }
    add("final_layer_adaLN_modulation_1".to_owned(), 8);
    modules
}

fn made(modules: &[Module], seed: u64) -> Adapter {
    let mut maker = Maker::new(seed);
    for (module, rows, inputs) in modules {
        let alpha = if maker.number() > 0.0 { 2.0 } else { 1.0 };
        maker.lora(module, *rows, inputs, alpha);
    }
    file(&maker.tensors)
}

fn run(inputs: &[&Arc<Adapter>], options: &[(&str, &str)]) -> lycomerge::Result<(Arc<Adapter>, Report)> {
    let mut merge = Merge::new();
    for adapter in inputs {
        merge.add(Arc::clone(adapter), 1.0)?;
    }
    for (name, value) in options {
        merge.options.set(name, value)?;
    }
    let (bytes, report) = merge.run_in_memory(&mut |_| true)?;
    Ok((Arc::new(Adapter::from_bytes("merged", bytes)?), report))
}

fn renamed(adapter: &Arc<Adapter>, naming: &str) -> Arc<Adapter> {
    run(&[adapter], &[("format", "keep"), ("naming", naming)]).unwrap_or_else(|e| panic!("{naming}: {e}")).0
}

fn assert_same(one: &Adapter, other: &Adapter, what: &str) {
    let (one, other) = (tensors(one), tensors(other));
    for (name, tensor) in &one {
        let other = other.get(name).unwrap_or_else(|| panic!("{what}: {name} is missing"));
        assert_eq!((tensor.0, &tensor.1), (other.0, &other.1), "{what}: {name}");
        assert!(tensor.2 == other.2, "{what}: {name} has other numbers");
    }
    assert_eq!(one.len(), other.len(), "{what}");
}

/// The numbers of every parameter, by module and entry.
fn dense(adapter: &Adapter) -> BTreeMap<(String, Param), Mat<f64>> {
    let delta = |(id, layer)| adapter.delta::<f64>(id, layer).unwrap().to_full();
    let layers = adapter.layers();
    layers.iter().map(|row| ((row.0.module.clone(), row.0.param), delta(row))).collect()
}

#[test]
fn adapters_come_back_from_every_naming_byte_for_byte() {
    let models = [listed("sdxl"), listed("sd15"), listed("flux"), sd3()];
    for (k, modules) in models.iter().enumerate() {
        let kohya = renamed(&Arc::new(made(modules, k as u64)), "kohya");
        let mut named = vec![("kohya", Arc::clone(&kohya))];
        for (_, naming) in Naming::ALL.into_iter().filter(|(_, name)| *name != "kohya") {
            named.push((naming, renamed(&kohya, naming)));
        }
        for (from, adapter) in &named {
            for (to, same) in &named {
                let there = renamed(adapter, to);
                assert_same(&there, same, &format!("model {k}, from {from} to {to}"));
                assert_same(&renamed(&there, from), adapter, &format!("model {k}, from {to} back to {from}"));
            }
        }
        assert!(tensors(&named[1].1).keys().any(|name| name.ends_with(".lora_A.weight")));
    }
}

#[test]
fn parts_with_factors_of_their_own_are_joined_and_come_back() {
    // As diffusers' trainers make it: every part has its own rank, and some parts aren't there.
    let mut maker = Maker::new(9);
    for block in 0..3 {
        for (part, rows) in [("attn.to_q", 4), ("attn.to_v", 4), ("proj_mlp", 16), ("proj_out", 4)] {
            let module = format!("transformer.single_transformer_blocks.{block}.{part}");
            maker.random(format!("{module}.lora_A.weight"), &[2, 5]);
            maker.random(format!("{module}.lora_B.weight"), &[rows, 2]);
        }
        maker.random(format!("transformer.transformer_blocks.{block}.attn.to_k.lora_A.weight"), &[3, 5]);
        maker.random(format!("transformer.transformer_blocks.{block}.attn.to_k.lora_B.weight"), &[4, 3]);
    }
    maker.random("transformer.norm_out.linear.lora_A.weight".to_owned(), &[2, 4]);
    maker.random("transformer.norm_out.linear.lora_B.weight".to_owned(), &[8, 2]);
    let split = Arc::new(file(&maker.tensors));
    for naming in ["kohya", "comfy"] {
        let fused = renamed(&split, naming);
        let modules: Vec<_> = fused.layers().keys().filter(|id| id.module.contains("linear1")).collect();
        assert_eq!(modules.len(), 3, "{naming}");
        assert_eq!(fused.layers()[modules[0]].rank, Some(6));
        assert_same(&renamed(&fused, "diffusers"), &split, naming);
        let (parts, whole) = (dense(&split), dense(&fused));
        let part = |name: &str| {
            parts[&(format!("transformer.single_transformer_blocks.1.{name}"), Param::Weight)].clone()
        };
        let linear1 = &whole[&(modules[1].module.clone(), Param::Weight)];
        assert_eq!(linear1.subrows(0, 4), part("attn.to_q"));
        assert_eq!(linear1.subrows(4, 4), Mat::<f64>::zeros(4, 5));
        assert_eq!(linear1.subrows(8, 4), part("attn.to_v"));
        assert_eq!(linear1.subrows(12, 16), part("proj_mlp"));
        let swapped = &parts[&("transformer.norm_out.linear".to_owned(), Param::Weight)];
        let native = whole.iter().find(|((module, _), _)| module.contains("adaLN")).unwrap().1;
        assert_eq!(native.subrows(0, 4), swapped.subrows(4, 4));
        assert_eq!(native.subrows(4, 4), swapped.subrows(0, 4));
    }
}

#[test]
fn trained_adapters_come_back_from_every_naming_byte_for_byte() {
    let mut files = 0;
    for entry in std::fs::read_dir("tests/data/real/adapters").unwrap() {
        let Ok(adapter) = Adapter::open(entry.unwrap().path()) else { continue };
        let adapter = Arc::new(adapter);
        for (_, naming) in Naming::ALL {
            let there = renamed(&adapter, naming);
            assert_eq!(there.layers().len(), adapter.layers().len());
            assert_same(&renamed(&there, "kohya"), &adapter, adapter.path().to_str().unwrap());
        }
        files += 1;
    }
    assert_eq!(files, 19);
}

#[test]
fn inputs_under_different_names_merge_into_one_set_of_layers() {
    let models = [some(listed("sdxl")), some(listed("sd15")), some(listed("flux")), sd3()];
    for (k, modules) in models.iter().enumerate() {
        let [a, b] = [1, 2].map(|seed| renamed(&Arc::new(made(modules, 10 * seed + k as u64)), "kohya"));
        let options = [("dtype", "float32"), ("format", "lora")];
        let (alike, _) = run(&[&a, &b], &options).unwrap();
        let truth = dense(&alike);
        for (_, naming) in Naming::ALL {
            let (mixed, report) = run(&[&a, &renamed(&b, naming)], &options).unwrap();
            let alone = report.layers.iter().find(|layer| layer.inputs != [0, 1]);
            assert!(alone.is_none(), "model {k}, {naming}: {:?}", alone.map(|layer| &layer.name));
            assert!(report.error < 1e-6, "{naming}: {}", report.error);
            let found = dense(&mixed);
            assert!(found.keys().eq(truth.keys()), "{naming}");
            for (id, want) in &truth {
                let error = (&found[id] - want).norm_l2() / want.norm_l2();
                assert!(error < 1e-5, "{naming}: {id:?}: {error:e}");
            }
            // The other way round, the output has the other's names; back in kohya's they are the same.
            let (turned, _) = run(&[&renamed(&b, naming), &a], &options).unwrap();
            let found = dense(&renamed(&turned, "kohya"));
            assert!(found.keys().eq(truth.keys()), "{naming}");
            for (id, want) in &truth {
                let error = (&found[id] - want).norm_l2() / want.norm_l2();
                assert!(error < 1e-5, "{naming}, turned: {id:?}: {error:e}");
            }
        }
    }
}

#[test]
fn every_family_is_cut_and_joined_by_rows() {
    // 21 outputs are cut between and inside the blocks of a LoKr.
    let fused = "lora_unet_single_blocks_0_linear1";
    for (w1, w2) in [(7, 4), (4, 7)] {
        let mut maker = Maker::new(3);
        maker.random(format!("{fused}.lokr_w1"), &[w1, 1]);
        maker.random(format!("{fused}.lokr_w2"), &[w2, 5]);
        maker.random("lora_unet_single_blocks_1_linear1.hada_w1_a".to_owned(), &[28, 2]);
        maker.random("lora_unet_single_blocks_1_linear1.hada_w1_b".to_owned(), &[2, 5]);
        maker.random("lora_unet_single_blocks_1_linear1.hada_w2_a".to_owned(), &[28, 2]);
        maker.random("lora_unet_single_blocks_1_linear1.hada_w2_b".to_owned(), &[2, 5]);
        maker.random("lora_unet_single_blocks_2_linear1.diff".to_owned(), &[28, 5]);
        maker.random("lora_unet_single_blocks_2_linear1.diff_b".to_owned(), &[28]);
        let whole = Arc::new(file(&maker.tensors));
        let whole_deltas = dense(&whole);
        let options = [("dtype", "float32"), ("format", "lora"), ("naming", "diffusers")];
        let (split, _) = run(&[&whole], &options).unwrap();
        assert_eq!(split.layers().len(), 16);
        for ((module, param), got) in dense(&split) {
            let identity = identify(&module);
            let unit = 28 / identity.rows.of;
            let block = module.split('.').nth(2).unwrap();
            let want = &whole_deltas[&(format!("lora_unet_single_blocks_{block}_linear1"), param)];
            let want = want.subrows(identity.rows.start * unit, identity.rows.len * unit);
            let error = (&got - want).norm_l2() / want.norm_l2();
            assert!(error < 1e-6, "{module}: {error:e}");
        }
        let kept = run(&[&whole], &[("format", "keep"), ("naming", "diffusers")]);
        match (w1, kept) {
            // Between the blocks, the factors themselves are cut.
            (7, Ok((kept, _))) => assert_same(&renamed(&kept, "kohya"), &renamed(&whole, "kohya"), "kept"),
            (4, Err(error)) => assert!(error.message().contains("--format lora"), "{error}"),
            (_, other) => panic!("{:?}", other.map(|_| ())),
        }
    }
}

#[test]
fn what_has_no_name_in_the_first_inputs_way_is_refused_with_the_nearest() {
    let mut dotted = Maker::new(1);
    dotted.lora("diffusion_model.blocks.0.novel_thing.q", 4, &[4], 2.0);
    dotted.lora("diffusion_model.blocks.0.novel_thing.k", 4, &[4], 2.0);
    let mut kohya = Maker::new(2);
    kohya.lora("lora_unet_blocks_0_novel_thing_q", 4, &[4], 2.0);
    kohya.lora("lora_unet_blocks_0_novel_thing_v", 4, &[4], 2.0);
    let (dotted, kohya) = (Arc::new(file(&dotted.tensors)), Arc::new(file(&kohya.tensors)));
    let error = run(&[&dotted, &kohya], &[]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert_eq!(error.layer(), Some("lora_unet_blocks_0_novel_thing_v"));
    assert!(error.message().contains("'diffusion_model.blocks.0.novel_thing."), "{error}");
    let (merged, _) = run(&[&dotted, &kohya], &[("naming", "kohya")]).unwrap();
    assert_eq!(merged.layers().len(), 3);
    assert_eq!(run(&[&kohya, &dotted], &[]).unwrap().0.layers().len(), 3);
}

#[test]
fn two_names_of_one_module_in_a_file_are_refused() {
    let mut maker = Maker::new(1);
    maker.lora("lora_unet_input_blocks_4_1_proj_in", 4, &[4], 2.0);
    maker.lora("lora_unet_down_blocks_1_attentions_0_proj_in", 4, &[4], 2.0);
    let error = run(&[&Arc::new(file(&maker.tensors))], &[]).unwrap_err();
    assert!(error.message().contains("is the same module as"), "{error}");
}

#[test]
fn flux_is_cut_and_swapped_as_diffusers_does_it() {
    let open =
        |name: &str| Arc::new(Adapter::open(format!("tests/golden/names/flux/{name}.safetensors")).unwrap());
    let (kohya, diffusers) = (open("kohya"), open("diffusers"));
    let by_identity = |adapter: &Adapter| -> BTreeMap<_, Mat<f64>> {
        dense(adapter).into_iter().map(|((module, _), delta)| (identify(&module), delta)).collect()
    };
    let (found, wanted) = (by_identity(&renamed(&kohya, "diffusers")), by_identity(&diffusers));
    assert!(found.keys().eq(wanted.keys()));
    for (module, want) in &wanted {
        let error = (&found[module] - want).norm_l2() / want.norm_l2();
        assert!(error < 1e-6, "{module:?}: {error:e}");
    }
    // And together again, from what diffusers made.
    let (found, wanted) = (dense(&renamed(&diffusers, "kohya")), dense(&kohya));
    assert!(found.keys().eq(wanted.keys()));
    for (id, want) in &wanted {
        let error = (&found[id] - want).norm_l2() / want.norm_l2();
        assert!(error < 1e-6, "{id:?}: {error:e}");
    }
}

#[test]
fn sdxl_is_called_what_diffusers_calls_it() {
    let text = std::fs::read_to_string("tests/golden/names/sdxl.json").unwrap();
    let rows: Vec<[String; 3]> = serde_json::from_str(&text).unwrap();
    assert_eq!(rows.len(), 210);
    let (mut kohya, mut diffusers) = (Maker::new(0), Maker::new(0));
    for (number, [module, down, up]) in rows.iter().enumerate() {
        let number = number as f64 / 16.0 + 1.0;
        kohya.push(format!("{module}.lora_down.weight"), &[1, 1], &[number]);
        kohya.push(format!("{module}.lora_up.weight"), &[1, 1], &[1.0]);
        diffusers.push(down.clone(), &[1, 1], &[number]);
        diffusers.push(up.clone(), &[1, 1], &[1.0]);
    }
    let (kohya, diffusers) = (Arc::new(file(&kohya.tensors)), Arc::new(file(&diffusers.tensors)));
    let found = dense(&renamed(&diffusers, "kohya"));
    let wanted = dense(&kohya);
    assert!(found.keys().eq(wanted.keys()));
    assert!(found == wanted);
    assert_eq!(dense(&renamed(&kohya, "diffusers")), dense(&renamed(&diffusers, "diffusers")));
}

#[test]
fn a_file_for_peft_has_its_configuration_beside_it() {
    let folder = tempfile::TempDir::new().unwrap();
    for (name, options) in [
        ("patterns", &[("format", "keep"), ("naming", "peft")][..]),
        ("loha", &[("format", "keep")]),
        ("patterns", &[("format", "lora"), ("dtype", "float64")]),
    ] {
        let adapter = Arc::new(Adapter::open(format!("tests/golden/names/{name}")).unwrap());
        let mut merge = Merge::new();
        merge.add(Arc::clone(&adapter), 1.0).unwrap();
        for (name, value) in options {
            merge.options.set(name, value).unwrap();
        }
        merge.run_to(&folder.path().join("adapter_model.safetensors"), &mut |_| true).unwrap();
        let wanted = dense(&adapter);
        for path in [folder.path().to_owned(), folder.path().join("adapter_config.json")] {
            let back = Adapter::open(path).unwrap();
            let found = dense(&back);
            assert!(found.keys().eq(wanted.keys()), "{name}");
            for (id, want) in &wanted {
                let error = (&found[id] - want).norm_l2() / want.norm_l2();
                assert!(error < 1e-6, "{name}: {id:?}: {error:e}");
            }
        }
        std::fs::remove_file(folder.path().join("adapter_config.json")).unwrap();
    }
}

#[test]
fn alphas_of_diffusers_names_are_in_the_metadata() {
    let adapter = Arc::new(Adapter::open("tests/data/real/adapters/italic.lora.safetensors").unwrap());
    let there = renamed(&adapter, "diffusers");
    let text = there.metadata().get("lora_adapter_metadata").expect("its alphas aren't its ranks");
    let fields: serde_json::Value = serde_json::from_str(text).unwrap();
    assert_eq!(fields["unet.peft_type"], "LORA");
    assert_eq!(fields["unet.target_modules"].as_array().unwrap().len(), 97);
    assert!(!renamed(&there, "kohya").metadata().contains_key("lora_adapter_metadata"));
}
