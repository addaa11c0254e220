"""The package on real adapters: LYCOMERGE_ADAPTERS is their folder."""

import contextlib
import gc
import importlib.util
import io
import os
import signal
import subprocess
import sys
import tempfile
import threading
import unittest
from pathlib import Path
from unittest import mock

import lycomerge

ADAPTERS = Path(os.environ["LYCOMERGE_ADAPTERS"])
LOKR, LOHA = ADAPTERS / "invert.lokr4.safetensors", ADAPTERS / "italic.loha.safetensors"


class Package(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.output = Path(folder.name) / "merged.safetensors"

    def test_an_adapter_tells_its_layers_and_lends_its_tensors(self) -> None:
        adapter = lycomerge.Adapter.open(LOKR)
        self.assertEqual((adapter.kind, len(adapter.layers)), ("LoKr", 97))
        self.assertEqual(adapter.metadata("ss_network_module"), "lycoris.kohya")
        self.assertIsNone(adapter.metadata("no such key"))
        file = LOKR.read_bytes()
        self.assertEqual(adapter.to_bytes(), file)
        tensors = list(adapter.tensors())
        del adapter
        gc.collect()
        for tensor in tensors:
            self.assertTrue(tensor.data.readonly)
            self.assertIn(bytes(tensor.data), file)
        again = lycomerge.Adapter.from_bytes(file)
        self.assertEqual(again.tensor(tensors[3].name), tensors[3])
        with self.assertRaises(KeyError):
            again.tensor("no such tensor")

    def test_merging_into_a_file_and_into_memory_is_the_same(self) -> None:
        heard: list[str] = []
        report = lycomerge.merge(
            [LOKR, LOHA], weights=[0.6, -0.4], output=self.output, dtype="float32",
            progress=lambda stage, done, total: heard.append(stage),
        )  # fmt: skip
        self.assertIn("merging", heard)
        self.assertTrue(0 < report.relative_error < 0.01)
        self.assertEqual(len(report.data["layers"]), 97)
        stored = lycomerge.Adapter.open(self.output)
        merged, again = lycomerge.Merge(dtype="float32").add(LOKR, 0.6).add(LOHA, -0.4).run()
        self.assertEqual(list(stored.tensors()), list(merged.tensors()))
        self.assertEqual(report.relative_error, again.relative_error)

    def test_a_file_is_inspected(self) -> None:
        found = lycomerge.inspect(LOKR)
        self.assertEqual((found.kind, found.layers, found.modules), ("LoKr", 97, 97))
        self.assertEqual(found.byte_len, LOKR.stat().st_size)
        self.assertEqual(found.families, {"LoKr": 97})
        self.assertEqual(sum(found.ranks.values()) + found.without_rank, 97)
        self.assertEqual(found.dtypes, {"F16": len(list(lycomerge.Adapter.open(LOKR).tensors()))})
        self.assertEqual(found.metadata["ss_network_module"], "lycoris.kohya")
        full = lycomerge.inspect(ADAPTERS / "italic.full.safetensors")
        self.assertEqual((full.ranks, full.scales), ({}, None))
        lycomerge.Adapter.open(LOKR).save(torch_file := self.output.with_suffix(".pt"))
        self.assertEqual(lycomerge.inspect(torch_file).metadata, {})

    def test_strategies_and_options_are_listed(self) -> None:
        strategies = {strategy.name: strategy for strategy in lycomerge.strategies()}
        self.assertEqual(strategies["smart_fusion"].title, "Smart fusion")
        self.assertEqual(strategies["task_arithmetic"].paper, "arXiv 2212.04089")
        (t,) = strategies["slerp"].parameters
        self.assertEqual((t.name, t.takes, t.default), ("t", "a number from 0 to 1", "0.5"))
        options = {option.name: option for option in lycomerge.options()}
        self.assertEqual((options["max-size"].value, options["dtype"].default), ("SIZE", "float16"))
        self.assertIsNone(options["skip-unknown"].value)
        self.assertTrue(all(option.help for option in options.values()))

    def test_a_plan_and_a_comparison_have_figures_and_pictures(self) -> None:
        merge = lycomerge.Merge().add(LOKR, 0.7).add(LOHA, -0.5)
        plan, comparison = merge.plan(), merge.compare()
        self.assertEqual([way["quality"] for way in plan.data["qualities"]], ["exact", "good", "compact"])
        self.assertEqual(plan.data["inputs"][0], {"name": LOKR.name, "bytes": LOKR.stat().st_size})
        self.assertLessEqual(plan.data["sampled"], plan.data["layers"])
        point = plan.data["curves"][0]["points"][0]
        self.assertEqual(set(point), {"options", "rank", "bytes", "error"})
        self.assertEqual(comparison.data["inputs"][1]["weight"], -0.5)
        for table in ("cosines", "overlaps", "sign_conflicts"):
            self.assertEqual([len(row) for row in comparison.data[table]], [2, 2])
        self.assertTrue({"kept", "blocks", "layers", "advice"} <= set(comparison.data))
        for figures in (plan, comparison):
            self.assertTrue(figures.picture().startswith(b"<svg"))
            self.assertTrue(figures.picture("png", dark=True).startswith(b"\x89PNG"))
            self.assertNotEqual(figures.picture("svg", True), figures.picture("svg", False))
            with self.assertRaises(lycomerge.OptionError):
                figures.picture("gif")
        with self.assertRaises(lycomerge.OptionError):
            lycomerge.Merge().add(LOKR).compare()

    def test_a_forecast_says_what_the_merge_comes_to(self) -> None:
        merge = lycomerge.Merge().add(LOKR).add(LOHA)
        forecast = merge.forecast()
        _, report = merge.run()
        self.assertAlmostEqual(forecast.byte_len / report.data["bytes"], 1, delta=0.2)
        self.assertEqual(forecast.input_byte_len, LOKR.stat().st_size + LOHA.stat().st_size)
        self.assertFalse(forecast.huge)

    def test_progress_is_shown_with_and_without_tqdm(self) -> None:
        with contextlib.redirect_stderr(io.StringIO()) as shown, mock.patch.dict(sys.modules, {"tqdm.auto": None}):
            lycomerge.merge([LOKR, LOHA], output=self.output, progress=True)
        self.assertIn("merging 97 modules\n", shown.getvalue())
        if importlib.util.find_spec("tqdm"):
            with contextlib.redirect_stderr(io.StringIO()) as shown:
                lycomerge.merge([LOKR, LOHA], output=self.output, progress=True)
            self.assertIn("merging: 100%", shown.getvalue())

    def test_names_are_those_that_are_asked_for(self) -> None:
        there, _ = lycomerge.Merge(format="keep", naming="diffusers").add(LOKR).run()
        self.assertTrue(all(layer.name.startswith("unet.") for layer in there.layers))
        back, _ = lycomerge.Merge(format="keep", naming="kohya").add(there).run()
        self.assertEqual([layer.name for layer in back.layers], [layer.name for layer in lycomerge.Adapter.open(LOKR).layers])

    def test_the_log_is_pythons(self) -> None:
        with self.assertLogs("lycomerge", "INFO") as heard:
            merge = lycomerge.Merge().add(LOKR)
            merge.run()
        self.assertEqual({record.levelname for record in heard.records}, {"INFO"})
        self.assertIn("LoKr of 97 layers", heard.output[0])
        with self.assertLogs("lycomerge", "WARNING"):
            lycomerge.Adapter.open(ADAPTERS / "invert.doralora.safetensors", skip_unknown=True)

    def test_what_depends_on_the_models_weights_is_opened_with_the_model(self) -> None:
        base = ADAPTERS.parent / "base.safetensors"
        dora = lycomerge.Adapter.open(ADAPTERS / "italic.doralora.safetensors", base=base)
        self.assertEqual({layer.family for layer in dora.layers}, {"DoRA"})
        data = (ADAPTERS / "italic.doralora.safetensors").read_bytes()
        self.assertEqual(len(lycomerge.Adapter.from_bytes(data, base=base).layers), 97)
        truth = [dora.delta_norm(index) for index in range(97)]
        merged, report = lycomerge.Merge(tolerance=0.001).add(dora, 2.0).run()
        for index, norm in enumerate(truth):
            self.assertAlmostEqual(merged.delta_norm(index) / norm, 2.0, places=2)
        self.assertLessEqual(report.relative_error, 0.001)

    def test_ctrl_c_is_heard_in_the_log_too(self) -> None:
        with mock.patch("logging.Logger.log", side_effect=KeyboardInterrupt), self.assertRaises(KeyboardInterrupt):
            lycomerge.Adapter.open(LOKR)

    def test_python_may_end_while_a_thread_merges(self) -> None:
        script = f"""
import lycomerge, threading
started = threading.Event()
def work():
    while True:
        lycomerge.Merge().add({str(LOKR)!r}).add({str(LOHA)!r}).run(lambda *_: started.set())
threading.Thread(target=work, daemon=True).start()
started.wait()
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_failures_are_exceptions_by_status(self) -> None:
        with self.assertRaises(lycomerge.IoError) as caught:
            lycomerge.Adapter.open("no such file")
        self.assertEqual(caught.exception.file, "no such file")
        with self.assertRaises(lycomerge.FormatError):
            lycomerge.Adapter.from_bytes(b"not an adapter")
        with self.assertRaises(lycomerge.UnsupportedError) as caught_dora:
            lycomerge.Adapter.open(ADAPTERS / "invert.doralora.safetensors")
        self.assertTrue(caught_dora.exception.layer)
        with self.assertRaises(lycomerge.IoError):
            lycomerge.Adapter.open(ADAPTERS / "invert.doralora.safetensors", base="no such file")
        with self.assertRaises(lycomerge.OptionError):
            lycomerge.Merge(colour="red")
        with self.assertRaises(lycomerge.OptionError):
            lycomerge.merge([LOKR], weights=[1, 2], output=self.output)

    def test_what_a_callback_raises_stops_the_run_and_leaves_nothing(self) -> None:
        def stop(stage: str, done: int, total: int) -> None:
            raise LookupError(stage)

        with self.assertRaises(LookupError):
            lycomerge.merge([LOKR], output=self.output, progress=stop)
        self.assertEqual(list(self.output.parent.iterdir()), [])

    def test_ctrl_c_cancels(self) -> None:
        # Whoever started the tests may have had it ignored, as shells do in the background.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.addCleanup(signal.signal, signal.SIGINT, before)

        def interrupt(stage: str, done: int, total: int) -> None:
            if threading.current_thread() is threading.main_thread():
                signal.raise_signal(signal.SIGINT)

        with self.assertRaises(KeyboardInterrupt):
            lycomerge.merge([LOKR, LOHA], output=self.output, progress=interrupt)
        self.assertEqual(list(self.output.parent.iterdir()), [])

    def test_a_recipe_makes_the_same_bytes_again(self) -> None:
        first = lycomerge.Merge(dtype="float32", format="lora", rank=4, match_norm=True).add(LOKR).add(LOHA, 0.5)
        merged, report = first.run()
        for recipe in (merged.metadata("lycomerge_recipe") or "", report.data):
            again, _ = lycomerge.Merge().add(LOKR).add(LOHA, 0.5).set_recipe(recipe).run()
            self.assertEqual(again.to_bytes(), merged.to_bytes())
        with self.assertRaises(lycomerge.OptionError):
            lycomerge.Merge().set_recipe({})
        self.assertEqual([layer.name for layer in report.layers], [layer.name for layer in merged.layers])
        self.assertTrue(all(layer.rank <= 4 and layer.relative_error >= 0 for layer in report.layers))

    def test_block_weights_scale_each_input_by_itself(self) -> None:
        norms = {}
        for text in (None, "M00=0.5", "*=0 M00=0.5"):
            _, report = lycomerge.Merge(dtype="float32").add(LOKR, 0.5, block_weights=text).run()
            norms[text] = {layer.name: layer.norm for layer in report.layers}
        for name, norm in norms[None].items():
            middle = "_mid_block_" in name
            self.assertAlmostEqual(norms["M00=0.5"][name], norm * (0.5 if middle else 1), delta=1e-5 * norm)
            self.assertAlmostEqual(norms["*=0 M00=0.5"][name], norm * 0.5 * middle, delta=1e-5 * norm)
        merge = lycomerge.Merge().add(LOKR).set_block_weights(0, "M00=0.5").set_block_weights(0, None)
        with self.assertRaisesRegex(lycomerge.OptionError, "the blocks are TIME, IN00"):
            merge.set_block_weights(0, "D00=1")
        with self.assertRaises(lycomerge.OptionError):
            merge.set_block_weights(1, "M00=1")

    def test_another_thread_cancels(self) -> None:
        merge = lycomerge.Merge().add(LOKR).add(LOHA)

        def elsewhere(stage: str, done: int, total: int) -> None:
            thread = threading.Thread(target=merge.cancel)
            thread.start()
            thread.join()

        with self.assertRaises(lycomerge.Cancelled):
            merge.run(elsewhere)
        merge.run()

    def test_the_survey_and_the_families_are_the_librarys(self) -> None:
        adapter = lycomerge.Adapter.open(LOKR)
        survey = adapter.survey()
        self.assertEqual((survey["kind"], survey["families"]["LoKr"]), ("LoKr", 97))
        self.assertIn("LoKr", [family.name for family in lycomerge.families()])
        metadata = adapter.all_metadata()
        self.assertEqual(metadata["ss_network_module"], "lycoris.kohya")
        self.assertEqual(list(metadata), sorted(metadata))


if __name__ == "__main__":
    unittest.main()
