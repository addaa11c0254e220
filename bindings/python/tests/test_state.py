"""Tensors of PyTorch and NumPy into adapters and out of them, as far as either is installed."""

import importlib.util
import os
import tempfile
import unittest
from pathlib import Path
from typing import Any

import lycomerge

ADAPTERS = Path(os.environ["LYCOMERGE_ADAPTERS"])
LOKR, LOHA = ADAPTERS / "invert.lokr4.safetensors", ADAPTERS / "italic.loha.safetensors"


class NumPy(unittest.TestCase):
    def setUp(self) -> None:
        if not importlib.util.find_spec("numpy"):
            self.skipTest("NumPy is not installed")

    def test_arrays_are_lent_and_taken(self) -> None:
        import numpy

        adapter = lycomerge.Adapter.open(LOKR)
        arrays = {tensor.name: tensor.numpy() for tensor in adapter.tensors()}
        again = lycomerge.Adapter.from_state_dict(arrays, {"ss_output_name": "again"})
        self.assertEqual(list(again.tensors()), list(adapter.tensors()))
        self.assertEqual(again.metadata("ss_output_name"), "again")
        # However the numbers lie in memory.
        turned = {name: array.astype(array.dtype.newbyteorder(">"), order="F") for name, array in arrays.items()}
        self.assertEqual(list(lycomerge.Adapter.from_state_dict(turned).tensors()), list(adapter.tensors()))
        first = next(iter(arrays.values()))
        self.assertFalse(first.flags.writeable)
        with self.assertRaises(TypeError):
            lycomerge.Adapter.from_state_dict({"x.diff": numpy.array(["text"])})


    def test_what_a_layer_does_is_an_array(self) -> None:
        import numpy

        adapter = lycomerge.Adapter.open(LOKR)
        for index in range(3):
            wide, narrow = (adapter.delta(index, dtype).numpy() for dtype in ("F64", "F32"))
            layer = adapter.layers[index]
            self.assertEqual(wide.shape, (layer.rows, layer.cols))
            self.assertTrue(numpy.array_equal(wide.astype("float32"), narrow))
            self.assertAlmostEqual(float(numpy.linalg.norm(wide)) / adapter.delta_norm(index), 1.0, places=9)
        with self.assertRaises(lycomerge.LycomergeError):
            adapter.delta(0, "U8")
        with self.assertRaises(lycomerge.LycomergeError):
            adapter.delta(97)

    def test_merged_deltas_are_the_sums_of_the_inputs_own(self) -> None:
        import numpy

        one, other = lycomerge.Adapter.open(LOKR), lycomerge.Adapter.open(LOHA)
        taken: list[str] = []

        def take(layer: lycomerge.Layer, delta: lycomerge.Tensor) -> None:
            index = len(taken)
            truth = 0.6 * one.delta(index, "F64").numpy() - 0.4 * other.delta(index, "F64").numpy()
            wrong = delta.numpy().reshape(truth.shape) - truth
            self.assertLess(numpy.linalg.norm(wrong) / numpy.linalg.norm(truth), 1e-7)
            taken.append(layer.name)

        merge = lycomerge.Merge(dtype="float32").add(one, 0.6).add(other, -0.4)
        merge.deltas(take)
        self.assertEqual(taken, [layer.name for layer in one.layers])

        def refuse(layer: lycomerge.Layer, delta: lycomerge.Tensor) -> None:
            raise LookupError(layer.name)

        with self.assertRaises(LookupError):
            merge.deltas(refuse)

    def test_a_merge_is_baked_into_a_checkpoint(self) -> None:
        import numpy

        adapter = lycomerge.Adapter.open(LOKR)
        weights = {
            f"model.diffusion_model.{layer.name.removeprefix('lora_unet_')}.weight": numpy.ones(
                (layer.rows, layer.cols), "f4"
            )
            for layer in adapter.layers
        }
        # What is no adapter's layer is told of, tensor by tensor.
        with tempfile.TemporaryDirectory() as folder, self.assertLogs("lycomerge", "WARNING"):
            base, baked = Path(folder, "base.safetensors"), Path(folder, "baked.safetensors")
            lycomerge.Adapter.from_state_dict(
                weights | {"lora_unet_x.diff": numpy.zeros((1, 1), "f4")}, skip_unknown=True
            ).save(base)
            report = lycomerge.Merge().add(adapter, 0.5).bake(base, baked)
            self.assertEqual(len(report.data["tensors"]), 97)
            self.assertAlmostEqual(report.data["kept"], 1.0, places=4)
            found = lycomerge.Adapter.open(baked, skip_unknown=True)
            for index, layer in enumerate(adapter.layers):
                name = f"model.diffusion_model.{layer.name.removeprefix('lora_unet_')}.weight"
                truth = 1 + 0.5 * adapter.delta(index, "F64").numpy()
                self.assertLess(numpy.abs(found.tensor(name).numpy() - truth).max(), 1e-6)

    def test_what_was_baked_is_extracted_again(self) -> None:
        import numpy

        adapter = lycomerge.Adapter.open(LOKR)
        random = numpy.random.default_rng(1)
        weights = {
            f"model.diffusion_model.{layer.name.removeprefix('lora_unet_')}.weight": random.standard_normal(
                (layer.rows, layer.cols)
            )
            for layer in adapter.layers
        }
        with tempfile.TemporaryDirectory() as folder, self.assertLogs("lycomerge", "WARNING"):
            base, tuned, out = (Path(folder, f"{name}.safetensors") for name in ("base", "tuned", "out"))
            lycomerge.Adapter.from_state_dict(
                weights | {"lora_unet_x.diff": numpy.zeros((1, 1))}, skip_unknown=True
            ).save(base)
            lycomerge.Merge().add(adapter, block_weights="*=0 M00=2").bake(base, tuned)
            report = lycomerge.Merge(format="full", dtype="float32").extract(base, tuned, out)
            found = lycomerge.Adapter.open(out)
            middle = [layer.name for layer in adapter.layers if "_mid_block_" in layer.name]
            self.assertEqual([layer.name for layer in report.layers], middle)
            self.assertGreater(len(middle), 5)
            for index, layer in enumerate(adapter.layers):
                if layer.name in middle:
                    truth = 2 * adapter.delta(index, "F64").numpy()
                    wrong = found.delta(middle.index(layer.name), "F64").numpy().reshape(truth.shape) - truth
                    self.assertLess(numpy.linalg.norm(wrong), 1e-6 * numpy.linalg.norm(truth))
            with self.assertRaises(lycomerge.OptionError):
                lycomerge.Merge(format="lokr").extract(base, tuned, out)

    def test_tensors_go_by_dlpack(self) -> None:
        import numpy

        adapter = lycomerge.Adapter.open(LOKR)
        for tensor in adapter.tensors():
            taken = numpy.from_dlpack(tensor)
            self.assertTrue(numpy.array_equal(taken, tensor.numpy()))
            self.assertFalse(taken.flags.writeable)
        first = next(adapter.tensors())
        with self.assertRaises(BufferError):
            first.__dlpack__()
        with self.assertRaises(BufferError):
            adapter.delta(0).__dlpack__(max_version=(1, 0))
        # Nobody takes it, so it is given back.
        capsule = first.__dlpack__(max_version=(1, 0))
        del capsule


class Torch(unittest.TestCase):
    def setUp(self) -> None:
        if not importlib.util.find_spec("torch"):
            self.skipTest("PyTorch is not installed")

    def state(self, dtype: Any) -> dict[str, Any]:
        state = lycomerge.Adapter.open(LOKR).state_dict()
        return {name: tensor.to(dtype) for name, tensor in state.items()}

    def test_a_state_dict_comes_back_in_every_dtype(self) -> None:
        import torch

        for dtype in [
            torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
        ]:  # fmt: skip
            state = self.state(dtype)
            again = lycomerge.Adapter.from_state_dict(state).state_dict()
            self.assertEqual(again.keys(), state.keys())
            for name, tensor in state.items():
                self.assertEqual((again[name].dtype, again[name].shape), (dtype, tensor.shape))
                self.assertTrue(torch.equal(again[name].double(), tensor.double()), name)

    def test_a_state_dict_may_be_written_into(self) -> None:
        adapter = lycomerge.Adapter.open(LOKR)
        before = adapter.to_bytes()
        for tensor in adapter.state_dict().values():
            tensor.zero_()
        self.assertEqual(adapter.to_bytes(), before)

    def test_tensors_are_lent_without_a_copy(self) -> None:
        import torch

        adapter = lycomerge.Adapter.open(LOKR)
        tensor = next(tensor for tensor in adapter.tensors() if len(tensor.shape) == 2)
        lent = tensor.torch()
        self.assertEqual(lent.data_ptr(), tensor.torch().data_ptr())
        copied = torch.frombuffer(bytearray(tensor.data), dtype=lent.dtype).reshape(tensor.shape)
        self.assertTrue(torch.equal(lent, copied))

    def test_tensors_go_by_dlpack(self) -> None:
        import torch

        adapter = lycomerge.Adapter.open(LOKR)
        for tensor in adapter.tensors():
            self.assertTrue(torch.equal(torch.from_dlpack(tensor), tensor.torch()))

    def test_strided_parameters_are_taken_by_their_values(self) -> None:
        import torch

        turned = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3)).t()
        adapter = lycomerge.Adapter.from_state_dict({"lora_unet_x.diff": turned})
        self.assertEqual(adapter.state_dict()["lora_unet_x.diff"].tolist(), turned.tolist())

    def test_a_merge_is_a_state_dict(self) -> None:
        import torch

        state = self.state(torch.float32)
        merged, _ = lycomerge.Merge(dtype="float32").add(lycomerge.Adapter.from_state_dict(state), 2.0).run()
        self.assertTrue(all(isinstance(tensor, torch.Tensor) for tensor in merged.state_dict().values()))


if __name__ == "__main__":
    unittest.main()
