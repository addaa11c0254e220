"""Makes tests/golden/names: adapters as PEFT and diffusers write them, with the changes that these make.

Run by hand, with torch, peft, diffusers and transformers installed:

    python tests/golden/make_names.py

Every folder of PEFT's has adapter_config.json and adapter_model.*, as saved by PEFT; delta.safetensors beside them has
what PEFT itself adds to each weight and bias, in float64, by the module's path.
"""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.lora_base import _pack_dict_with_prefix
from diffusers.loaders.lora_conversion_utils import (
    _convert_kohya_flux_lora_to_diffusers,
    _convert_non_diffusers_lora_to_diffusers,
    _maybe_map_sgm_blocks_to_diffusers,
)
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoHaConfig, LoKrConfig, LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

OUT = Path(__file__).parent / "names"


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.to_q = nn.Linear(8, 12)
        self.to_k = nn.Linear(8, 6)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.mid = Block()
        self.up = Block()
        self.conv = nn.Conv2d(4, 6, 3)
        self.tokens = nn.Embedding(10, 6)
        self.turned = Conv1D(6, 4)
        self.norm = nn.LayerNorm(6)


def randomise(model):
    """Adapters begin without effect; here all of their numbers are drawn, as float32 holds them."""
    generator = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
            parameter.data = (drawn / 2).to(parameter.dtype)


def deltas(model, prefix="", adapter="default"):
    """What every adapted layer adds to its weight and its bias."""
    found = {}
    for name, layer in model.named_modules():
        if isinstance(layer, BaseTunerLayer):
            path = prefix + name.removeprefix("base_model.model.")
            found[f"{path}.weight"] = layer.get_delta_weight(adapter).detach().double().contiguous()
            if getattr(layer, "lora_bias", {}).get("default"):
                bias = layer.lora_B["default"].bias * layer.scaling["default"]
                found[f"{path}.bias"] = bias.detach().double().contiguous()
    return found


def peft(name, config, **saving):
    torch.manual_seed(1)
    model = get_peft_model(Model().double(), config).double()
    randomise(model)
    model.save_pretrained(OUT / name, **saving)
    (OUT / name / "README.md").unlink(missing_ok=True)
    # Loaded again: the patterns of a saved configuration are sorted, and the first that fits counts.
    model = PeftModel.from_pretrained(Model().double(), OUT / name).double()
    save_file(deltas(model), OUT / name / "delta.safetensors")


def unet():
    torch.manual_seed(1)
    return UNet2DConditionModel(
        sample_size=8, layers_per_block=1, block_out_channels=(4, 8), norm_num_groups=2, cross_attention_dim=6,
        attention_head_dim=2, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )


def diffusers():
    """Three generations of one adapter's keys; only the newest has its alphas in the metadata."""
    model = unet()
    config = LoraConfig(
        r=2, lora_alpha=3, alpha_pattern={"mid_block.attentions.0.proj_in": 5}, rank_pattern={"conv1": 3},
        target_modules=["to_q", "to_out.0", "proj_in", "conv1"],
    )
    model.add_adapter(config)
    randomise(model)
    state = get_peft_model_state_dict(model)
    folder = OUT / "diffusers"
    folder.mkdir()
    StableDiffusionPipeline.save_lora_weights(
        folder, unet_lora_layers=state, unet_lora_adapter_metadata=model.peft_config["default"].to_dict(),
    )
    (folder / "pytorch_lora_weights.safetensors").rename(folder / "metadata.safetensors")
    truth = deltas(model, "unet.")
    save_file(truth, folder / "metadata.delta.safetensors")

    # Older ones had no alpha at all: their scale is 1.
    old = _pack_dict_with_prefix(convert_state_dict_to_diffusers(state), "unet")
    save_file({name: tensor.contiguous() for name, tensor in old.items()}, folder / "old.safetensors")
    scales = {f"unet.{name}.weight": layer.scaling["default"] for name, layer in model.named_modules()
              if isinstance(layer, BaseTunerLayer)}
    unscaled = {name: delta / scales[name] for name, delta in truth.items()}
    save_file(unscaled, folder / "old.delta.safetensors")

    # The first attention processors had a name of their own for the output projection.
    oldest = {}
    for name, tensor in state.items():
        if ".attn" in name:
            module, factor = name.removesuffix(".weight").rsplit(".", 1)
            block, projection = module.removesuffix(".0").rsplit(".", 1)
            way = {"lora_A": "down", "lora_B": "up"}[factor]
            oldest[f"{block}.processor.{projection}_lora.{way}.weight"] = tensor.contiguous()
    save_file(oldest, folder / "oldest.safetensors")
    attentions = {name.removeprefix("unet."): delta for name, delta in unscaled.items() if ".attn" in name}
    save_file(attentions, folder / "oldest.delta.safetensors")


def flux():
    """A block of each kind of Flux under kohya's names, and what diffusers makes of it: cut, swapped, scaled."""
    torch.manual_seed(3)
    state = {}

    def add(module, outputs, inputs, alpha, rank=2):
        state[f"lora_unet_{module}.lora_down.weight"] = torch.randn(rank, inputs).half()
        state[f"lora_unet_{module}.lora_up.weight"] = torch.randn(outputs, rank).half()
        state[f"lora_unet_{module}.alpha"] = torch.tensor(float(alpha)).half()

    # diffusers takes the sizes of the real model for granted where it cuts.
    hidden = 3072
    for side in ["img", "txt"]:
        add(f"double_blocks_0_{side}_attn_qkv", 12, 4, 1)
        for name in ["attn_proj", "mlp_0", "mlp_2", "mod_lin"]:
            add(f"double_blocks_0_{side}_{name}", 6, 4, 4)
    add("single_blocks_0_linear1", 7 * hidden, 4, 1)
    # Joined from parts: each has a rank of its own.
    up = torch.zeros(12, 3)
    for part in range(3):
        up[4 * part : 4 * part + 4, part] = torch.randn(4)
    add("double_blocks_1_img_attn_qkv", 12, 4, 3, rank=3)
    state["lora_unet_double_blocks_1_img_attn_qkv.lora_up.weight"] = up.half()
    for name in ["single_blocks_0_linear2", "single_blocks_0_modulation_lin", "img_in", "time_in_in_layer"]:
        add(name, 6, 4, 1)
    # diffusers forgets the alphas of these.
    add("final_layer_adaLN_modulation_1", 8, 4, 2)
    add("final_layer_linear", 6, 4, 2)
    folder = OUT / "flux"
    folder.mkdir()
    save_file(state, folder / "kohya.safetensors")
    converted = _convert_kohya_flux_lora_to_diffusers(dict(state))
    save_file({name: tensor.clone() for name, tensor in converted.items()}, folder / "diffusers.safetensors")


def sdxl():
    """What diffusers calls SDXL's modules, by kohya's names: the first transformer block of every attention."""
    shapes = (OUT.parent.parent.parent / "benches" / "shapes" / "sdxl.tsv").read_text().splitlines()[1:]
    modules = [line.split("\t")[0] for line in shapes]
    blocks = ("unet.input_blocks", "unet.middle_block", "unet.output_blocks", "te")
    modules = [name for name in modules if name.startswith(blocks)]
    modules = [name for name in modules if ".transformer_blocks." not in name or ".transformer_blocks.0." in name]
    modules = [name for name in modules if ".layers." not in name or ".layers.7." in name]
    modules = [f"lora_{name.replace('.', '_')}" for name in modules if name != "unet.input_blocks.0.0"]
    state = {}
    for number, module in enumerate(modules):
        state[f"{module}.lora_down.weight"] = torch.tensor([[float(number)]])
        state[f"{module}.lora_up.weight"] = torch.tensor([[-1.0 - number]])
    found, _ = _convert_non_diffusers_lora_to_diffusers(
        _maybe_map_sgm_blocks_to_diffusers(dict(state), SimpleNamespace(layers_per_block=2))
    )
    down = {int(tensor.item()): name for name, tensor in found.items() if tensor.item() >= 0}
    up = {-1 - int(tensor.item()): name for name, tensor in found.items() if tensor.item() < 0}
    rows = [[module, down[number], up[number]] for number, module in enumerate(modules)]
    (OUT / "sdxl.json").write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    linear = ["to_q", "to_k"]
    peft("lora", LoraConfig(r=3, lora_alpha=4, target_modules=[*linear, "conv", "tokens"]))
    peft("torch", LoraConfig(r=3, lora_alpha=4, target_modules=linear), safe_serialization=False)
    peft("bias", LoraConfig(r=3, lora_alpha=4, target_modules=linear, lora_bias=True))
    peft("turned", LoraConfig(r=3, lora_alpha=4, target_modules=["turned"], fan_in_fan_out=True))
    peft("saved", LoraConfig(r=3, target_modules=linear, modules_to_save=["norm"], bias="all"))
    peft("patterns", LoraConfig(
        r=3, lora_alpha=4, use_rslora=True, target_modules=[*linear, "conv"], rank_pattern={"conv": 2, "up.to_q": 5},
        alpha_pattern={"up.to_q": 9, "to_q": 7, "^mid.to_k": 11},
    ))
    peft("loha", LoHaConfig(r=2, alpha=3, target_modules=[*linear, "conv"], use_effective_conv2d=True))
    peft("lohaflat", LoHaConfig(r=2, alpha=3, target_modules=[*linear, "conv"]))
    peft("lokr", LoKrConfig(
        r=1, alpha=3, target_modules=[*linear, "conv"], decompose_both=True, decompose_factor=4,
        alpha_pattern={"to_k": 5},
    ))
    # As whole as its factors are, PEFT multiplies by alpha/r.
    peft("lokrwhole", LoKrConfig(r=16, alpha=3, target_modules=[*linear, "conv"], rank_pattern={"to_k": 32}))
    diffusers()
    flux()
    sdxl()
    for file in OUT.rglob("*.safetensors"):
        load_file(file)


if __name__ == "__main__":
    main()
