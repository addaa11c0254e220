"""Names of layers, and weight changes from the tensors of a file. Models are `Network`s."""

# mypy: ignore-errors

import numpy


class Network:
    """Weights by name, and what adapters call their layers."""

    def __init__(self, weights, names):
        self.weights = weights
        self.names = names

    def state_dict(self):
        return self.weights


class Patcher:
    """A model or text encoders with patches."""

    def __init__(self, network, patches=()):
        self.model = self.cond_stage_model = network
        self.patches = list(patches)

    def clone(self):
        return Patcher(self.model, self.patches)

    def add_patches(self, patches, strength):
        mine = {key: delta for key, delta in patches.items() if key in self.model.weights}
        self.patches += [(key, strength * delta) for key, delta in mine.items()]
        return list(mine)

    def patched(self, key):
        return self.model.weights[key] + sum(
            delta.reshape(self.model.weights[key].shape) for name, delta in self.patches if name == key
        )


def model_lora_keys_unet(model, keys):
    keys.update(model.names)


def model_lora_keys_clip(model, keys):
    keys.update(model.names)


def load_lora(state, keys):
    """The change of every weight that the tensors are for."""
    found = {}
    for layer, key in keys.items():
        parts = {
            name.removeprefix(f"{layer}."): numpy.asarray(tensor, numpy.float64)
            for name, tensor in state.items()
            if name.startswith(f"{layer}.")
        }
        if parts:
            found[key] = _delta(parts)
    return found


def _delta(parts):
    if "diff" in parts:
        return parts["diff"]
    if "w_norm" in parts:
        return parts["w_norm"]
    if "lora_up.weight" in parts:
        up, down = parts["lora_up.weight"], parts["lora_down.weight"]
        product = up.reshape(up.shape[0], -1) @ down.reshape(down.shape[0], -1)
        return parts["alpha"] / down.shape[0] * product.reshape(up.shape[0], *down.shape[1:])
    scale = parts["alpha"] / parts["lokr_w2_b"].shape[0] if "lokr_w2" not in parts else 1
    one, two = parts["lokr_w1"], parts.get("lokr_w2")
    if two is None:
        two = (parts["lokr_w2_a"] @ parts["lokr_w2_b"].reshape(parts["lokr_w2_b"].shape[0], -1)).reshape(
            parts["lokr_w2_a"].shape[0], *parts["lokr_w2_b"].shape[1:]
        )
    return scale * numpy.kron(one.reshape(*one.shape, *[1] * (two.ndim - 2)), two)
