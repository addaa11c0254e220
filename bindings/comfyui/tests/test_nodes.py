"""The nodes over a stand-in of ComfyUI (stand_in/README.md), on real adapters: LYCOMERGE_ADAPTERS is their folder."""

# mypy: ignore-errors

import importlib.util
import json
import os
import re
import shutil
import sys
import tempfile
import tomllib
import unittest
from pathlib import Path

PACK = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PACK / "tests/stand_in"))

import folder_paths  # noqa: E402
import lycomerge  # noqa: E402
import numpy  # noqa: E402
from comfy import lora, model_management, utils  # noqa: E402
from comfy_execution import graph_utils  # noqa: E402


def load_pack():
    """The pack, as ComfyUI imports it: under a name that it makes up."""
    spec = importlib.util.spec_from_file_location("custom_node", PACK / "__init__.py")
    pack = importlib.util.module_from_spec(spec)
    sys.modules["custom_node"] = pack
    spec.loader.exec_module(pack)
    return pack


PACK_MODULE = load_pack()
NODES = PACK_MODULE.NODE_CLASS_MAPPINGS
ADAPTERS = Path(os.environ["LYCOMERGE_ADAPTERS"])
FILES = ["invert.lokr4.safetensors", "italic.loha.safetensors", "dots.lokr4.safetensors"]
STACK = [(FILES[0], 0.6, 0.6), (FILES[1], -0.4, -0.4)]
LORAS = [("invert.lora.safetensors", 0.6, 0.6), ("italic.lora.safetensors", -0.4, -0.4)]


def inputs_of(node):
    declared = node.INPUT_TYPES()
    return {**declared["required"], **declared.get("optional", {})}


def widgets(name, **changes):
    """A node's widgets as they stand in a new workflow."""
    found = {}
    for widget, (kind, *settings) in inputs_of(NODES[name]).items():
        first = kind[0] if isinstance(kind, list) and kind else None
        if isinstance(kind, list) or kind in ("FLOAT", "INT", "STRING", "BOOLEAN"):
            found[widget] = settings[0].get("default", first)
    return {**found, **changes}


def run(name, **given):
    """Runs a node as ComfyUI does; its results, and what it shows."""
    node = NODES[name]
    done = getattr(node(), node.FUNCTION)(**given)
    return (done["result"], "\n".join(done["ui"]["text"])) if isinstance(done, dict) else (done, "")


def merge(stack=None, **changes):
    (recipe, _), _ = run("LycomergeMerge", lora_stack=stack or STACK, **widgets("LycomergeMerge", **changes))
    return recipe


def network(*files, text=False):
    """A model, or a text encoder, with all of the layers of these files, by names of its own."""
    layers = {layer.name: layer for file in files for layer in lycomerge.Adapter.open(ADAPTERS / file).layers}
    mine = {name: layer for name, layer in layers.items() if name.startswith("lora_te") == text}
    keys = {name: f"host.{name.removeprefix('lora_')}.weight" for name in mine}
    random = numpy.random.default_rng()
    weights = {keys[name]: random.standard_normal((layer.rows, layer.cols)) for name, layer in mine.items()}
    return lora.Patcher(lora.Network(weights, keys))


def truth(stack):
    """The weighted sum of the adapters' effects, by layer."""
    total = {}
    for name, weight, _ in stack:
        adapter = lycomerge.Adapter.open(ADAPTERS / name)
        for index, layer in enumerate(adapter.layers):
            total[layer.name] = total.get(layer.name, 0) + weight * adapter.delta(index, "F64").numpy()
    return total


class Nodes(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        folder_paths.base = Path(folder.name)
        self.loras = folder_paths.base / "loras"
        shutil.copytree(ADAPTERS, self.loras)
        utils.heard.clear()
        self.addCleanup(setattr, model_management, "interrupted", False)

    def error_of(self, before, patched, wanted):
        """The relative Frobenius error of all weight changes."""
        keys = before.model.names
        found = [
            patched.patched(keys[name]) - before.model.weights[keys[name]] - delta for name, delta in wanted.items()
        ]
        norms = [numpy.sqrt(sum(numpy.sum(delta**2) for delta in deltas)) for deltas in (found, wanted.values())]
        return norms[0] / norms[1]

    def test_a_loader_appends_to_the_stack_and_says_what_the_file_is(self):
        (stack,), text = run(
            "LycomergeLoader", lora_name=FILES[0], model_weight=0.5, clip_weight=0.2, lora_stack=[("a", 1, 1)]
        )
        self.assertEqual(stack, [("a", 1, 1), (FILES[0], 0.5, 0.2)])
        self.assertIn("LoKr, 97 layers", text)

    def test_a_missing_file_is_found_before_the_run_and_in_it(self):
        valid = NODES["LycomergeLoader"].VALIDATE_INPUTS
        self.assertIs(valid(lora_name=FILES[0]), True)
        self.assertIn("gone.safetensors: there is no such file in models/loras", valid(lora_name="gone.safetensors"))
        with self.assertRaisesRegex(FileNotFoundError, "gone.safetensors"):
            run("LycomergeLoader", lora_name="gone.safetensors", model_weight=1.0, clip_weight=1.0)
        with self.assertRaisesRegex(FileNotFoundError, "gone.safetensors"):
            merge([*STACK, ("gone.safetensors", 1, 1)])
        self.assertIn("gone.ckpt", NODES["LycomergeMerge"].VALIDATE_INPUTS(base="gone.ckpt"))

    def test_a_damaged_file_is_an_error_with_its_name(self):
        (self.loras / FILES[0]).write_bytes(b"nothing")
        with self.assertRaisesRegex(lycomerge.FormatError, FILES[0]):
            run("LycomergeLoader", lora_name=FILES[0], model_weight=1.0, clip_weight=1.0)

    def test_a_changed_file_has_another_fingerprint(self):
        fingerprint = NODES["LycomergeLoader"].IS_CHANGED
        before = fingerprint(lora_name=FILES[0], model_weight=1.0, clip_weight=1.0)
        self.assertEqual(before, fingerprint(lora_name=FILES[0], model_weight=1.0, clip_weight=1.0))
        os.utime(self.loras / FILES[0], (1, 1))
        touched = fingerprint(lora_name=FILES[0], model_weight=1.0, clip_weight=1.0)
        shutil.copy(self.loras / FILES[1], self.loras / FILES[0])
        self.assertEqual(len({before, touched, fingerprint(lora_name=FILES[0], model_weight=1.0, clip_weight=1.0)}), 3)

    def test_stacks_are_joined_by_number_and_inputs_grow(self):
        given = {f"stack_{number}": [(str(number), 1.0, 1.0)] for number in (10, 2, 1)}
        (stack,), _ = run("LycomergeStack", **given, stack_3=None)
        self.assertEqual([name for name, *_ in stack], ["1", "2", "10"])
        optional = NODES["LycomergeStack"].INPUT_TYPES()["optional"]
        self.assertEqual(list(optional.keys()), ["stack_1"])
        self.assertLessEqual({"stack_1", "stack_99"}, set(optional))
        self.assertEqual(optional["stack_99"][0], "LORA_STACK")
        self.assertNotIn("other", optional)
        self.assertEqual(json.loads(json.dumps(optional)).keys(), {"stack_1"})

    def test_menus_are_those_of_the_library(self):
        declared = inputs_of(NODES["LycomergeMerge"])
        self.assertEqual(declared["strategy"][0], [row.name for row in lycomerge.strategies()])
        told = declared["strategy"][1]["lycomerge_strategies"]
        self.assertIn(["density", "0.2"], [parameter[:2] for parameter in told["ties"]["parameters"]])
        for widget, option in (("format", "format"), ("dtype", "dtype"), ("match_norm", "match-norm")):
            known = next(row for row in lycomerge.options() if row.name == option)
            self.assertEqual(declared[widget][0], list(known.choices))
            self.assertIn(declared[widget][1]["default"], known.choices)
        for option in lycomerge.options():
            settings = json.dumps(declared, ensure_ascii=False)
            self.assertIn(option.help.replace('"', '\\"'), settings, option.name)

    def test_every_strategy_is_prepared(self):
        for row in lycomerge.strategies():
            with self.subTest(strategy=row.name):
                recipe = merge(LORAS, strategy=row.name, weights="0.6 0.4")
                self.assertEqual(recipe.options["strategy"], row.name)

    def test_weights_and_block_weights_go_to_their_adapters(self):
        recipe = merge(weights="0.5, -2", block_weights="1: IN04=0.5\nOUT03-OUT05=0..1\n2: *=0")
        self.assertEqual([given.weight for given in recipe.inputs], [0.5, -2.0])
        self.assertEqual(recipe.inputs[0].block_weights, "IN04=0.5 OUT03-OUT05=0..1")
        self.assertEqual(recipe.inputs[1].block_weights, "OUT03-OUT05=0..1 *=0")
        for wrong, says in (
            ({"weights": "1"}, "1 for 2 adapters"),
            ({"weights": "1 x"}, "'x' is not a number"),
            ({"block_weights": "3: IN04=1"}, "counted from 1 to 2"),
            ({"block_weights": "IN99=1"}, "IN99"),
            ({"settings": "density"}, "NAME=VALUE"),
            ({"settings": "density=0.3"}, "density"),
            ({"settings": "colour=red"}, "unknown option 'colour'"),
            ({"settings": "quality=good", "rank": 4}, "can't be used together"),
        ):
            with self.subTest(**wrong), self.assertRaisesRegex(Exception, re.escape(says)):
                merge(**wrong)
        with self.assertRaisesRegex(ValueError, "connect an Adapter Loader"):
            run("LycomergeMerge", lora_stack=[], **widgets("LycomergeMerge"))

    def test_a_clip_weight_of_its_own_is_a_strength_of_the_text_encoders(self):
        of = sys.modules["custom_node.nodes.recipe"].Input.of
        for entry, weight, blocks in (
            (("a", 0.5, 0.5), 0.5, "IN04=0"),
            (("a", 0.5, 1.0), 0.5, "te=2.0 IN04=0"),
            (("a", -0.5, 0.0), -0.5, "te=-0.0 IN04=0"),
            (("a", 0.0, 0.7), 0.7, "unet=0 IN04=0"),
        ):
            self.assertEqual((of(entry, "IN04=0").weight, of(entry, "IN04=0").block_weights), (weight, blocks))

    def test_what_is_applied_is_the_sum_of_the_effects(self):
        for stack in (STACK, LORAS, STACK[:1]):
            recipe = merge(stack, tolerance=0.3)
            model = network(*[name for name, *_ in stack])
            (patched, clip, text), shown = run(
                "LycomergeApply", model=model, merge=recipe, strength_model=1.0, strength_clip=1.0
            )
            self.assertIsNone(clip)
            self.assertEqual(model.patches, [])
            self.assertLess(self.error_of(model, patched, truth(stack)), 1e-3)
            self.assertIn("97 weights of the model and 0 of the text encoders changed, exact to", text)
            self.assertEqual(text, shown)
            utils.heard.clear()
            (half, _, _), _ = run("LycomergeApply", model=model, merge=recipe, strength_model=-0.5, strength_clip=1.0)
            wanted = {name: -0.5 * delta for name, delta in truth(stack).items()}
            self.assertLess(self.error_of(model, half, wanted), 1e-3)
            self.assertEqual(utils.heard, [], "another strength merged again")

    def test_names_that_comfyui_lacks_become_those_that_it_has(self):
        name = LORAS[0][0]
        for naming in ("peft", "diffusers"):
            renamed = lycomerge.Merge(format="keep", naming=naming).add(ADAPTERS / name)
            renamed.run_to(self.loras / f"{naming}.safetensors")
            recipe = merge([(f"{naming}.safetensors", 1.0, 1.0)])
            model = network(name)
            (patched, *_), _ = run("LycomergeApply", model=model, merge=recipe, strength_model=1.0, strength_clip=1.0)
            self.assertLess(self.error_of(model, patched, truth([(name, 1.0, 1.0)])), 1e-3)

    def test_low_ranks_stay_low(self):
        merged, _ = merge(LORAS).exact(None)
        self.assertLess(len(merged.data), 3 * (ADAPTERS / LORAS[0][0]).stat().st_size)

    def test_strategies_that_look_at_entries_apply_what_they_save(self):
        recipe = merge(strategy="ties", format="full", settings="density=0.3")
        model = network(*FILES)
        (patched, *_), _ = run("LycomergeApply", model=model, merge=recipe, strength_model=1.0, strength_clip=1.0)
        run("LycomergeSave", merge=recipe, filename="ties", quality="as set", if_it_exists="refuse")
        saved = lycomerge.Adapter.open(self.loras / "ties.safetensors")
        wanted = {layer.name: saved.delta(index, "F64").numpy() for index, layer in enumerate(saved.layers)}
        self.assertLess(self.error_of(model, patched, wanted), 1e-3)

    def test_text_encoders_have_their_own_strength(self):
        random = numpy.random.default_rng()
        names = ["lora_unet_mid_block_attentions_0_proj_in", "lora_te_text_model_encoder_layers_0_mlp_fc1"]
        tensors = {}
        for name in names:
            tensors[f"{name}.lora_up.weight"] = random.standard_normal((8, 2)).astype(numpy.float32)
            tensors[f"{name}.lora_down.weight"] = random.standard_normal((2, 6)).astype(numpy.float32)
        made = lycomerge.Adapter.from_state_dict(tensors)
        made.save(self.loras / "both.safetensors")
        layers = {layer.name: (index, layer) for index, layer in enumerate(made.layers)}
        patchers = [
            lora.Patcher(lora.Network({f"host.{name}.weight": numpy.zeros((8, 6))}, {name: f"host.{name}.weight"}))
            for name in names
        ]
        recipe = merge([("both.safetensors", 0.5, 2.0)])
        (model, clip, text), _ = run(
            "LycomergeApply", model=patchers[0], merge=recipe, strength_model=1.0, strength_clip=-1.0, clip=patchers[1]
        )  # fmt: skip
        for patched, name, weight in ((model, names[0], 0.5), (clip, names[1], -2.0)):
            wanted = weight * made.delta(layers[name][0], "F64").numpy()
            gap = numpy.linalg.norm(patched.patched(f"host.{name}.weight") - wanted)
            self.assertLess(gap / numpy.linalg.norm(wanted), 1e-3)
        self.assertIn("1 weights of the model and 1 of the text encoders", text)
        (model, clip, text), _ = run(
            "LycomergeApply", model=patchers[0], merge=recipe, strength_model=1.0, strength_clip=1.0
        )
        self.assertIn("the text encoders are not connected", text)

    def test_a_merge_for_another_model_is_an_error(self):
        recipe = merge()
        other = lora.Patcher(lora.Network({"host.x.weight": numpy.zeros((2, 2))}, {"x": "host.x.weight"}))
        with self.assertRaisesRegex(ValueError, "for another model"):
            run("LycomergeApply", model=other, merge=recipe, strength_model=1.0, strength_clip=1.0)
        model = network(*FILES)
        name, key = next(iter(model.model.names.items()))
        model.model.weights[key] = numpy.zeros((3, 5))
        with self.assertRaisesRegex(ValueError, f"{name}: .* 3×5"):
            run("LycomergeApply", model=model, merge=recipe, strength_model=1.0, strength_clip=1.0)
        model = network(*FILES)
        del model.model.weights[model.model.names.pop(name)]
        (_, _, text), _ = run("LycomergeApply", model=model, merge=recipe, strength_model=1.0, strength_clip=1.0)
        self.assertIn("left out:", text)
        self.assertIn(name, text)

    def test_work_is_heard_of_and_stops_when_asked(self):
        recipe = merge()
        given = {"model": network(*FILES), "merge": recipe, "strength_model": 1.0, "strength_clip": 1.0}
        utils.heard.clear()
        model_management.interrupted = True
        for name, more in (
            ("LycomergeApply", given),
            ("LycomergeSave", {"merge": recipe, **widgets("LycomergeSave", quality="exact")}),
        ):
            with self.assertRaises(model_management.InterruptProcessingException):
                run(name, **more)
        self.assertEqual(utils.heard, [])
        self.assertEqual(list(self.loras.glob("merged*")), [])
        model_management.interrupted = False
        run("LycomergeApply", **given)
        self.assertEqual(utils.heard[-1], (97, 97))

    def test_saving_keeps_the_metadata_and_shows_the_certificate(self):
        recipe = merge()
        (stack, _), text = run(
            "LycomergeSave", merge=recipe, filename="made/both", quality="exact", if_it_exists="refuse"
        )
        self.assertEqual(stack, [(os.path.join("made", "both.safetensors"), 1.0, 1.0)])
        saved = lycomerge.Adapter.open(self.loras / "made/both.safetensors")
        self.assertEqual(saved.metadata("ss_base_model_version"), "digits16_unet")
        self.assertIn("lycomerge_recipe", saved.all_metadata())
        self.assertRegex(text, r"saved made.both.safetensors: .*\n97 layers \(.*\)\nerror .* %, measured")
        (again, _), _ = run("LycomergeLoader", lora_name=stack[0][0], model_weight=1.0, clip_weight=1.0), ""
        self.assertEqual(again[0], stack)

    def test_sizes_and_errors_are_shown_before_anything_is_saved(self):
        # What is said of exactness there, counts for "as set" alone.
        recipe = merge(tolerance=0.5, rank=1)
        before = folder_paths.get_filename_list("loras")
        (stack, _), text = run("LycomergeSave", merge=recipe, **widgets("LycomergeSave"))
        self.assertEqual((stack, folder_paths.get_filename_list("loras")), ([], before))
        for quality in ("exact", "good", "compact"):
            said = re.search(rf"{quality}: about ([\d.]+) (kB|MB), error about ([\d.e-]+) %", text)
            self.assertTrue(said, text)
            run("LycomergeSave", merge=recipe, filename=quality, quality=quality, if_it_exists="refuse")
            size = (self.loras / f"{quality}.safetensors").stat().st_size
            told = float(said[1]) * {"kB": 1e3, "MB": 1e6}[said[2]]
            self.assertLess(abs(told / size - 1), 0.2, quality)

    def test_names_stay_in_the_folder_and_old_files_are_kept_unless_told(self):
        valid = NODES["LycomergeSave"].VALIDATE_INPUTS
        for name in ("", " ", "../x", "/x", "a/../../x", "C:\\x", "..", "a/.."):
            self.assertIn("is no name for a file", str(valid(filename=name)), name)
        self.assertIs(valid(filename="a/b.c"), True)
        recipe = merge()
        save = {"merge": recipe, "filename": "twice", "quality": "compact"}
        for _ in range(3):
            run("LycomergeSave", **save, if_it_exists="number the new one")
        self.assertEqual(len(list(self.loras.glob("twice*"))), 3)
        self.assertTrue((self.loras / "twice-3.safetensors").exists())
        with self.assertRaisesRegex(FileExistsError, "twice.safetensors exists already"):
            run("LycomergeSave", **save, if_it_exists="refuse")
        # An input may be the output.
        run("LycomergeSave", merge=recipe, filename=FILES[0], quality="exact", if_it_exists="overwrite")
        self.assertEqual(len(lycomerge.Adapter.open(self.loras / FILES[0]).layers), 97)

    def test_comparing_gives_pictures_and_words(self):
        for dark in (True, False):
            result, text = run("LycomergeCompare", lora_stack=[(name, 1.0, 1.0) for name in FILES], dark=dark)
            for image in result[:-1]:
                batch, height, width, channels = image.shape
                self.assertEqual((batch, channels, image.dtype), (1, 3, numpy.float32))
                self.assertTrue(height > 100 and width > 100)
                self.assertTrue(0 <= image.min() < image.max() <= 1)
                self.assertEqual(image[0, 2, 2].mean() < 0.5, dark, "the background")
        for name in FILES:
            self.assertIn(name, text)
        self.assertRegex(text, r"1 and 3: cosine -?0\.\d\d")
        self.assertIn("compact: about ", text)

    def test_one_adapter_is_inspected(self):
        (compared, plan, text), _ = run("LycomergeCompare", lora_stack=[(FILES[0], 1.0, 1.0)], dark=True)
        self.assertIsInstance(compared, graph_utils.ExecutionBlocker)
        self.assertEqual(plan.shape[3], 3)
        self.assertIn("1: invert.lokr4.safetensors: LoKr, 97 layers", text)
        self.assertIn("norm of IN04: ", text)


class Pack(unittest.TestCase):
    """What the editor and the registry read."""

    def test_versions_and_requirements_are_those_of_the_library(self):
        project = tomllib.loads((PACK / "pyproject.toml").read_text())["project"]
        self.assertEqual(project["version"], lycomerge.__version__)
        self.assertEqual(project["dependencies"], (PACK / "requirements.txt").read_text().split())
        self.assertEqual(project["dependencies"], [f"lycomerge>={lycomerge.__version__}"])

    def test_every_node_is_named_helped_and_translated(self):
        self.assertEqual(NODES.keys(), PACK_MODULE.NODE_DISPLAY_NAME_MAPPINGS.keys())
        for language in ("en", "zh"):
            told = json.loads((PACK / f"locales/{language}/nodeDefs.json").read_text("utf-8"))
            self.assertEqual(told.keys(), NODES.keys())
            for name, node in NODES.items():
                self.assertEqual(told[name]["inputs"].keys(), inputs_of(node).keys(), name)
                self.assertEqual(
                    list(told[name]["outputs"]), [str(index) for index in range(len(node.RETURN_TYPES))], name
                )
                help_page = PACK / "web/docs" / (f"{name}.md" if language == "en" else f"{name}/{language}.md")
                page = help_page.read_text("utf-8")
                for entry in told[name]["inputs"].values():
                    if name != "LycomergeStack":
                        self.assertIn(f"| {entry['name']} |", page, help_page)
        told = json.loads((PACK / "locales/en/nodeDefs.json").read_text("utf-8"))
        for name, node in NODES.items():
            self.assertEqual(told[name]["description"], node.DESCRIPTION)
            self.assertEqual(told[name]["display_name"], PACK_MODULE.NODE_DISPLAY_NAME_MAPPINGS[name])
            self.assertEqual(len(node.RETURN_NAMES), len(node.RETURN_TYPES))
            self.assertEqual(len(node.OUTPUT_TOOLTIPS), len(node.RETURN_TYPES))

    def test_example_workflows_have_the_nodes_as_they_are(self):
        for path in sorted((PACK / "example_workflows").glob("*.json")):
            workflow = json.loads(path.read_text())
            api = json.loads((PACK / "tests/workflows" / path.name).read_text())
            nodes = {str(node["id"]): node for node in workflow["nodes"]}
            self.assertEqual(nodes.keys(), api.keys())
            links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
            for number, node in nodes.items():
                given = api[number]["inputs"]
                self.assertEqual(node["type"], api[number]["class_type"])
                linked = {one["name"]: links[one["link"]] for one in node["inputs"] if one["link"]}
                self.assertEqual(linked, {name: value for name, value in given.items() if isinstance(value, list)})
                if node["type"] not in NODES:
                    continue
                named = list(widgets(node["type"]))
                self.assertEqual(
                    {name: given[name] for name in named}, dict(zip(named, node["widgets_values"], strict=True))
                )
                for name, value in given.items():
                    kind = inputs_of(NODES[node["type"]]).get(name, [None])[0]
                    if isinstance(kind, list) and name != "lora_name":
                        self.assertIn(value, kind)


if __name__ == "__main__":
    unittest.main()
