"""What the wheel installs beside the package: the command, and the library that it brings."""

import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import lycomerge

ADAPTERS = Path(os.environ["LYCOMERGE_ADAPTERS"])
LOKR, LOHA = ADAPTERS / "invert.lokr4.safetensors", ADAPTERS / "italic.loha.safetensors"
COMMAND = shutil.which("lycomerge", path=str(Path(sys.executable).parent))


class Installed(unittest.TestCase):
    def setUp(self) -> None:
        if COMMAND is None:
            self.skipTest("there is no command beside the interpreter")

    def test_the_command_is_the_package(self) -> None:
        assert COMMAND
        version = subprocess.run([COMMAND, "--version"], capture_output=True, text=True, check=True)
        self.assertIn(lycomerge.__version__, version.stdout)
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "merged.safetensors"
            subprocess.run([COMMAND, "merge", LOKR, LOHA, "-o", output], capture_output=True, check=True)
            merged, _ = lycomerge.Merge().add(LOKR).add(LOHA).run()
            self.assertEqual(list(lycomerge.Adapter.open(output).tensors()), list(merged.tensors()))


if __name__ == "__main__":
    unittest.main()
