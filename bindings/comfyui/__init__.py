"""lycomerge's nodes for ComfyUI. They only ask; the merging is done by the package `lycomerge`."""

try:
    import lycomerge  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"the nodes need the package lycomerge ({error}); install it into ComfyUI's Python: "
        "python -m pip install -r requirements.txt, in this folder"
    ) from error

from .nodes.applying import ApplyMerged
from .nodes.comparing import Compare
from .nodes.merging import MergeAdapters
from .nodes.saving import SaveAdapter
from .nodes.stacking import Loader, Stack

NODE_CLASS_MAPPINGS = {
    "LycomergeLoader": Loader,
    "LycomergeStack": Stack,
    "LycomergeMerge": MergeAdapters,
    "LycomergeApply": ApplyMerged,
    "LycomergeSave": SaveAdapter,
    "LycomergeCompare": Compare,
}

NODE_DISPLAY_NAME_MAPPINGS = {
    "LycomergeLoader": "Adapter Loader",
    "LycomergeStack": "Adapter Stack",
    "LycomergeMerge": "Merge Adapters",
    "LycomergeApply": "Apply Merged Adapter",
    "LycomergeSave": "Save Adapter",
    "LycomergeCompare": "Inspect / Compare Adapters",
}

WEB_DIRECTORY = "./web"

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]
