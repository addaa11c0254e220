"""The WebUI's tab: the page of the Python package, over the WebUI's own adapters and checkpoints.

It has three things to say: which files there are, where results go, and that there is a new one.
"""

from __future__ import annotations

from pathlib import Path

import gradio
from lycomerge.ui.host import Host, files_in
from lycomerge.ui.page import page
from modules import script_callbacks, sd_models, shared, ui_extra_networks


def _adapters() -> dict[str, Path]:
    """What lies in the folder of LoRAs, and in the one that LyCORIS had."""
    older = getattr(shared.cmd_opts, "lyco_dir_backcompat", None)
    return {**(files_in(Path(older)) if older else {}), **files_in(_output_folder())}


def _checkpoints() -> dict[str, Path]:
    """The WebUI's checkpoints, by its own names for them."""
    return {info.name: Path(info.filename) for info in sd_models.checkpoints_list.values()}


def _output_folder() -> Path:
    return Path(shared.cmd_opts.lora_dir)


def _saved() -> None:
    """Has the WebUI list its LoRAs anew, so that the result can be used at once."""
    for networks in ui_extra_networks.extra_pages:
        if networks.name == "lora":
            networks.refresh()


def _tab() -> list[tuple[gradio.Blocks, str, str]]:
    """The tab, as the WebUI asks for it."""
    with gradio.Blocks(analytics_enabled=False) as blocks:
        page(Host(adapters=_adapters, checkpoints=_checkpoints, output_folder=_output_folder, saved=_saved))
    return [(blocks, "Merge adapters", "lycomerge")]


script_callbacks.on_ui_tabs(_tab)
