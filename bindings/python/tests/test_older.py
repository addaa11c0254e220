"""The two older commands, as they are typed. LYCOMERGE_ADAPTERS is the folder of the real adapters. The commands of an
installed package are beside the interpreter; without one the scripts are run."""

import itertools
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import lycomerge

ADAPTERS = Path(os.environ["LYCOMERGE_ADAPTERS"])
LOKR, LOHA = str(ADAPTERS / "invert.lokr4.safetensors"), str(ADAPTERS / "italic.loha.safetensors")
LORA = str(ADAPTERS / "italic.lora.safetensors")
SCRIPTS = Path(__file__).resolve().parents[1]


def command(name: str) -> list[str]:
    installed = shutil.which(name, path=str(Path(sys.executable).parent))
    return [installed] if installed else [sys.executable, str(SCRIPTS / f"{name}.py")]


def norms(*weighted: tuple[str, float]) -> list[float]:
    """The norm of each layer of a weighted sum."""
    merge = lycomerge.Merge(format="full", dtype="float64")
    for path, weight in weighted:
        merge.add(path, weight)
    return [layer["norm"] for layer in merge.run()[1].data["layers"]]


class Older(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def run_script(self, name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        words = [*command(name), *arguments]
        return subprocess.run(words, cwd=self.folder, capture_output=True, text=True, check=False)

    def tensors(self, name: str) -> list[lycomerge.Tensor]:
        return list(lycomerge.Adapter.open(self.folder / name).tensors())

    def test_the_basic_command_is_the_weighted_sum(self) -> None:
        done = self.run_script("merge_multiple_lycoris", LOKR, LOHA, "--weights", "0.6", "-0.4", "--verify")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("std ", done.stdout)
        merged, _ = lycomerge.Merge(tolerance=0).add(LOKR, 0.6).add(LOHA, -0.4).run()
        self.assertEqual(self.tensors("merged_lycoris.safetensors"), list(merged.tensors()))

    def test_the_advanced_command_fuses_and_tells_what_it_did(self) -> None:
        done = self.run_script(
            "merge_multiple_lycoris_advanced", LOKR, LOHA, "--dtype", "float32", "--metadata", "info.json",
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stderr)
        merge = lycomerge.Merge(strategy="smart_fusion", dtype="float32", tolerance=0)
        merged, _ = merge.add(LOKR).add(LOHA).run()
        self.assertEqual(self.tensors("merged_lycoris_advanced.safetensors"), list(merged.tensors()))
        told = json.loads((self.folder / "info.json").read_text())
        self.assertEqual(told["merge_info"]["strategy"], "smart_fusion")
        self.assertEqual(told["merge_info"]["weights"], [1.0, 1.0])
        self.assertEqual(told["model_types"], ["LoKr", "LoHa"])
        self.assertEqual(len(told["report"]["layers"]), 97)

    def test_failures_have_their_documented_words(self) -> None:
        missing = self.run_script("merge_multiple_lycoris", LOKR, "nowhere.safetensors")
        self.assertEqual(
            (missing.returncode, missing.stderr), (1, "Error: Model file not found: nowhere.safetensors\n")
        )
        uneven = self.run_script("merge_multiple_lycoris", LOKR, LOHA, "--weights", "1")
        self.assertEqual(
            (uneven.returncode, uneven.stderr),
            (1, "Error: Number of weights (1) must match number of models (2)\n"),
        )
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_merging_in_steps_is_merging_at_once_to_rounding(self) -> None:
        kinds = ["lokr4", "lokr8both", "lokrfull", "loha", "lohatucker", "lora", "full"]
        for kind, other in itertools.pairwise(kinds):
            first, second, third = (
                str(ADAPTERS / f"{name}.safetensors")
                for name in (f"italic.{kind}", f"invert.{kind}", f"italic.{other}")
            )
            steps = [
                [first, second, "--weights", "0.5", "0.7", "-o", "two.safetensors"],
                ["two.safetensors", third, "--weights", "0.8", "-0.4", "-o", "steps.safetensors"],
                [first, second, third, "--weights", "0.4", "0.56", "-0.4", "-o", "once.safetensors"],
            ]
            for step in steps:
                done = self.run_script("merge_multiple_lycoris", *step)
                self.assertEqual(done.returncode, 0, done.stderr)
            in_steps, at_once = str(self.folder / "steps.safetensors"), str(self.folder / "once.safetensors")
            apart = norms((in_steps, 1), (at_once, -1))
            for difference, norm in zip(apart, norms((at_once, 1)), strict=True):
                self.assertLess(difference, 1e-3 * norm, kind)

    def test_weights_may_come_first_and_be_written_in_any_way(self) -> None:
        for dtype, stored in [("float", "F32"), ("float64", "F64"), ("bfloat", "BF16"), ("bfloat16", "BF16")]:
            done = self.run_script(
                "merge_multiple_lycoris", "--weights", "-5e-1", "-.25", LOKR, "--device", "cpu", LOHA,
                "--dtype", dtype, "--output", "x.safetensors", "--metadata", "info.json",
            )  # fmt: skip
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual({tensor.dtype for tensor in self.tensors("x.safetensors")}, {stored})
            told = json.loads((self.folder / "info.json").read_text())
            self.assertEqual(told["merge_info"]["weights"], [-0.5, -0.25])

    def test_the_advanced_command_has_every_strategy(self) -> None:
        for strategy in lycomerge.strategies():
            done = self.run_script(
                "merge_multiple_lycoris_advanced", LOKR, LORA, "--strategy", strategy.name,
                "--norm-threshold", "0.5", "-o", "x.safetensors",
            )  # fmt: skip
            self.assertEqual(done.returncode, 0, done.stderr)
        refused = self.run_script("merge_multiple_lycoris_advanced", LOKR, "--strategy", "guess")
        self.assertEqual(refused.returncode, 2)

    def test_models_that_may_not_fit_are_merged_with_a_warning(self) -> None:
        header = json.dumps({"lora_te_x.diff": {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}}).encode()
        other = len(header).to_bytes(8, "little") + header + struct.pack("<f", 1)
        (self.folder / "other.safetensors").write_bytes(other)
        done = self.run_script("merge_multiple_lycoris", LOKR, "other.safetensors")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("Warning: Models may not be compatible. Proceed with caution.\n", done.stdout)
        self.assertIn("no layer in common", done.stderr)

    def test_there_is_no_gpu_yet_and_it_says_so(self) -> None:
        done = self.run_script("merge_multiple_lycoris", LOKR, "--device", "cuda", "-o", "x.safetensors")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("Using the CPU", done.stderr)


if __name__ == "__main__":
    unittest.main()
