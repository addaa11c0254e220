"""Checks that PEFT and diffusers load what lycomerge writes in their namings, and do with it what it should do.

Run by hand, with torch, peft and diffusers installed:

    python tests/golden/check_names.py target/release/lycomerge
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from make_names import Model, deltas
from peft import PeftModel
from safetensors.torch import load_file

TESTS = Path(__file__).parent.parent
NAMES = TESTS / "golden" / "names"
REAL = TESTS / "data" / "real"


def run(*words):
    subprocess.run([*words, "--quiet"], check=True)


def worst(found, wanted):
    assert found.keys() == wanted.keys(), found.keys() ^ wanted.keys()
    return max(
        ((found[name].double().flatten() - wanted[name].double().flatten()).norm() / wanted[name].double().norm()).item()
        for name in wanted
    )


def peft(command, folder):
    """Every folder of PEFT's goes to ComfyUI's names and back, and PEFT adds the same as before."""
    for name in ["torch", "patterns", "loha", "lohaflat"]:
        comfy, back = folder / f"{name}.safetensors", folder / name / "adapter_model.safetensors"
        back.parent.mkdir()
        run(command, "convert", NAMES / name, "--naming", "comfy", "-o", comfy)
        run(command, "convert", comfy, "--naming", "peft", "-o", back)
        found = deltas(PeftModel.from_pretrained(Model().double(), back.parent).double())
        error = worst(found, load_file(NAMES / name / "delta.safetensors"))
        print(f"PEFT {name}: {error:.1e}")
        assert error < 1e-6


def unet():
    model = UNet2DConditionModel(
        sample_size=16, in_channels=1, out_channels=1, block_out_channels=(32, 64, 96), layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"), mid_block_type="UNetMidBlock2DCrossAttn",
        cross_attention_dim=32, attention_head_dim=4, norm_num_groups=8,
    )
    model.load_state_dict(load_file(REAL / "base.safetensors"))
    return model


def diffusers(command, folder):
    """A trained adapter, whose alphas are no ranks, under diffusers' names."""
    for style in ["italic"]:
        file = folder / f"{style}.safetensors"
        run(command, "convert", REAL / "adapters" / f"{style}.lora.safetensors", "--naming", "diffusers", "-o", file)
        model = unet()
        state, alphas, metadata = StableDiffusionPipeline.lora_state_dict(str(file), return_lora_metadata=True)
        StableDiffusionPipeline.load_lora_into_unet(state, network_alphas=alphas, unet=model, metadata=metadata)
        found = {name.removesuffix(".weight"): delta for name, delta in deltas(model.double(), adapter="default_0").items()}
        truth = load_file(REAL / "truth" / f"{style}.lora.delta.safetensors")
        truth = {name.removesuffix(".weight"): delta for name, delta in truth.items()}
        assert len(found) == 97
        error = worst({name: found[name] for name in truth}, truth)
        print(f"diffusers {style}: {error:.1e}")
        assert error < 1e-6


def main():
    with tempfile.TemporaryDirectory() as folder:
        peft(sys.argv[1], Path(folder))
        diffusers(sys.argv[1], Path(folder))


if __name__ == "__main__":
    main()
