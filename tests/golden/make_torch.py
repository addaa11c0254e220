#!/usr/bin/env python3
"""Writes small PyTorch files of every layout, and what they hold as safetensors; or checks one of ours.

    make_torch.py                  writes tests/golden/torch
    make_torch.py --check FILE     loads FILE as PyTorch does, and compares it with kinds.safetensors

Needs torch and safetensors. Written to `torch/` beside this script:

kinds.*.pt           a tensor of every kind, in every layout: zip, legacy, compressed, protocol 4, no checksums
kinds.safetensors    the same tensors, in order and by themselves
nested.pt            a state dict with module versions, beside an epoch and an optimiser's state
numbers.pt           alphas as Python numbers
adapter.pt           tests/data/real/adapters/invert.lokr8both.safetensors
refused/*.pt         what is not a plain state dict: each must be refused
"""

import io
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

HERE = Path(__file__).parent
OUT = HERE / "torch"
ADAPTER = HERE.parent / "data/real/adapters/invert.lokr8both.safetensors"

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
INTS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]
UNTYPED = [torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint32, torch.uint64]


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def kinds() -> dict[str, Tensor]:
    """Every dtype, and every way to view a storage."""
    grid = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4) / 8 - 1
    tensors = {f"float.{name_of(dtype)}": grid.to(dtype) for dtype in FLOATS}
    tensors |= {f"int.{name_of(dtype)}": torch.arange(5).to(dtype) for dtype in INTS}
    tensors |= {f"untyped.{name_of(dtype)}": torch.arange(7).float().to(dtype) for dtype in UNTYPED}
    shared = torch.arange(60, dtype=torch.float16)
    tensors |= {
        "view.whole": shared,
        "view.offset": shared[7:19],
        "view.rows": shared.reshape(6, 10)[2:4],
        "view.transposed": shared.reshape(6, 10).t(),
        "view.every_third": shared[1::3],
        "view.permuted": shared.reshape(3, 4, 5).permute(2, 0, 1),
        "view.window": shared.reshape(6, 10)[1:5, 3:9:2],
        "view.diagonal": shared.reshape(6, 10).diagonal(),
        "view.expanded": torch.tensor([[1.5], [2.5]]).expand(2, 3),
        "view.overlapping": shared.as_strided((4, 3), (2, 1), 5),
        "view.channels_last": torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
        "view.odd_steps_of_one": shared.as_strided((1, 4, 1), (999, 1, 77), 3),
        "view.untyped": torch.arange(12).float().reshape(3, 4).t().to(torch.float8_e5m2).t()[1:],
        "shape.scalar": torch.tensor(0.75, dtype=torch.bfloat16),
        "shape.scalar_of_many": shared[9],
        "shape.none": torch.zeros(0),
        "shape.none_of_many": shared[4:4].reshape(0, 3),
        "shape.ones": torch.full((1, 1, 1, 1), 2.0),
        "parameter": nn.Parameter(torch.tensor([[1.0, -2.0]])),
        "ünï.code": torch.tensor([1.0]),
    }
    return tensors


def plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}


def repack(path: Path, method: int, edit: dict[str, bytes] | None = None) -> bytes:
    """The records of an archive in another one."""
    out = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", method) as new:
        for record in old.infolist():
            data = (edit or {}).get(record.filename.split("/", 1)[1], old.read(record))
            new.writestr(zipfile.ZipInfo(record.filename), data, method)
    return out.getvalue()


class Odd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def refused() -> dict[str, object]:
    pair = torch.complex(torch.ones(2), torch.ones(2))
    return {
        "negated": {"a.b": pair.conj().imag},
        "complex": {"a.b": pair},
        "sparse": {"a.b": torch.eye(3).to_sparse()},
        "quantized": {"a.b": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)},
        "module": nn.Linear(2, 2),
        "tensor": torch.ones(2),
        "no_tensors": {"epoch": 3},
        "several": {"first": {"a.b": torch.ones(1)}, "second": {"a.b": torch.ones(1)}},
        "mixed": {"a.b": torch.ones(1), "state_dict": {"a.b": torch.ones(1)}},
        "fnuz": {"a.b": torch.ones(2).to(torch.float8_e4m3fnuz)},
    }


def make() -> None:
    (OUT / "refused").mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    save_file(plain(kinds()), OUT / "kinds.safetensors")
    torch.save(kinds(), OUT / "kinds.zip.pt")
    torch.save(kinds(), OUT / "kinds.legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(kinds(), OUT / "kinds.protocol4.pt", pickle_protocol=4)
    torch.save(kinds(), OUT / "kinds.legacy4.pt", pickle_protocol=4, _use_new_zipfile_serialization=False)
    (OUT / "kinds.deflated.pt").write_bytes(repack(OUT / "kinds.zip.pt", zipfile.ZIP_DEFLATED))
    torch.serialization.set_crc32_options(False)
    torch.save(kinds(), OUT / "kinds.unchecked.pt")
    torch.serialization.set_crc32_options(True)

    layer = nn.Linear(3, 2)
    optimiser = torch.optim.Adam(layer.parameters())
    layer(torch.ones(3)).sum().backward()
    optimiser.step()
    checkpoint = {"epoch": 3, "lr": 1e-3, "loss": torch.tensor(0.5), "state_dict": layer.state_dict()}
    torch.save(checkpoint | {"optimizer": optimiser.state_dict()}, OUT / "nested.pt")
    save_file(plain(layer.state_dict()), OUT / "nested.safetensors")

    numbers = OrderedDict([("a.alpha", 4), ("b.alpha", 0.5), ("a.up", torch.ones(2, 1)), ("step", 7)])
    torch.save(numbers, OUT / "numbers.pt")
    torch.save(load_file(ADAPTER), OUT / "adapter.pt")

    for name, content in refused().items():
        torch.save(content, OUT / "refused" / f"{name}.pt")
    torch.jit.script(Odd()).save(OUT / "refused" / "script.pt")
    big = repack(OUT / "numbers.pt", zipfile.ZIP_STORED, {"byteorder": b"big"})
    (OUT / "refused" / "big_endian.pt").write_bytes(big)


def check(path: str) -> None:
    wanted = load_file(OUT / "kinds.safetensors")
    for weights_only in [True, False]:
        for mmap in [False, True]:
            found = torch.load(path, weights_only=weights_only, mmap=mmap)
            assert list(found) == sorted(wanted), sorted(found)
            for name, tensor in wanted.items():
                other = found[name]
                assert (other.dtype, other.shape, other.is_contiguous()) == (tensor.dtype, tensor.shape, True), name
                same = other.reshape(-1).view(torch.uint8) if other.numel() else other
                assert torch.equal(same, tensor.reshape(-1).view(torch.uint8) if tensor.numel() else tensor), name
    assert zipfile.ZipFile(path).testzip() is None
    print(f"torch {torch.__version__} loads {path}: {len(wanted)} tensors")


if __name__ == "__main__":
    check(sys.argv[2]) if sys.argv[1:2] == ["--check"] else make()
