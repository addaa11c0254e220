"""The package on real adapters: LYCOMERGE_ADAPTERS is their folder."""

import gc
import os
import signal
import tempfile
import threading
import unittest
from pathlib import Path

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

    def test_failures_are_exceptions_by_status(self) -> None:
        with self.assertRaises(lycomerge.IoError) as caught:
            lycomerge.Adapter.open("no such file")
        self.assertEqual(caught.exception.file, "no such file")
        with self.assertRaises(lycomerge.FormatError):
            lycomerge.Adapter.from_bytes(b"not an adapter")
        with self.assertRaises(lycomerge.UnsupportedError) as caught_dora:
            lycomerge.Adapter.open(ADAPTERS / "invert.doralora.safetensors")
        self.assertTrue(caught_dora.exception.layer)
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
        def interrupt(stage: str, done: int, total: int) -> None:
            if threading.current_thread() is threading.main_thread():
                signal.raise_signal(signal.SIGINT)

        with self.assertRaises(KeyboardInterrupt):
            lycomerge.merge([LOKR, LOHA], output=self.output, progress=interrupt)
        self.assertEqual(list(self.output.parent.iterdir()), [])


if __name__ == "__main__":
    unittest.main()
