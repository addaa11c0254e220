"""The two older commands, as they are typed. LYCOMERGE_ADAPTERS is the folder of the real adapters."""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import lycomerge

ADAPTERS = Path(os.environ["LYCOMERGE_ADAPTERS"])
LOKR, LOHA = str(ADAPTERS / "invert.lokr4.safetensors"), str(ADAPTERS / "italic.loha.safetensors")
SCRIPTS = Path(__file__).resolve().parents[1]


class Older(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def run_script(self, name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, str(SCRIPTS / name), *arguments]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)

    def tensors(self, name: str) -> list[lycomerge.Tensor]:
        return list(lycomerge.Adapter.open(self.folder / name).tensors())

    def test_the_basic_command_is_the_weighted_sum(self) -> None:
        done = self.run_script("merge_multiple_lycoris.py", LOKR, LOHA, "--weights", "0.6", "-0.4", "--verify")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("std ", done.stdout)
        merged, _ = lycomerge.Merge().add(LOKR, 0.6).add(LOHA, -0.4).run()
        self.assertEqual(self.tensors("merged_lycoris.safetensors"), list(merged.tensors()))

    def test_the_advanced_command_fuses_and_tells_what_it_did(self) -> None:
        done = self.run_script(
            "merge_multiple_lycoris_advanced.py", LOKR, LOHA, "--dtype", "float32", "--metadata", "info.json",
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stderr)
        merged, _ = lycomerge.Merge(strategy="smart_fusion", dtype="float32").add(LOKR).add(LOHA).run()
        self.assertEqual(self.tensors("merged_lycoris_advanced.safetensors"), list(merged.tensors()))
        told = json.loads((self.folder / "info.json").read_text())
        self.assertEqual(told["merge_info"]["strategy"], "smart_fusion")
        self.assertEqual(told["merge_info"]["weights"], [1.0, 1.0])
        self.assertEqual(told["model_types"], ["LoKr", "LoHa"])
        self.assertEqual(len(told["report"]["layers"]), 97)

    def test_failures_have_their_documented_words(self) -> None:
        missing = self.run_script("merge_multiple_lycoris.py", LOKR, "nowhere.safetensors")
        self.assertEqual((missing.returncode, missing.stderr), (1, "Error: Model file not found: nowhere.safetensors\n"))
        uneven = self.run_script("merge_multiple_lycoris.py", LOKR, LOHA, "--weights", "1")
        self.assertEqual(
            (uneven.returncode, uneven.stderr),
            (1, "Error: Number of weights (1) must match number of models (2)\n"),
        )
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_there_is_no_gpu_yet_and_it_says_so(self) -> None:
        done = self.run_script("merge_multiple_lycoris.py", LOKR, "--device", "cuda", "-o", "x.safetensors")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("Using the CPU", done.stderr)


if __name__ == "__main__":
    unittest.main()
