"""A WebUI that is nothing but its tabs: takes a script of an extension, and serves on a port that it prints."""

import importlib.util
import os
import sys

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio
from modules import script_callbacks

spec = importlib.util.spec_from_file_location("extension", sys.argv[1])
assert spec and spec.loader
spec.loader.exec_module(importlib.util.module_from_spec(spec))

interfaces = [interface for make in script_callbacks.tabs for interface in make()]

# Fonts of this machine, so that tests can tell what the tab itself asks for.
theme = gradio.themes.Default(font=["sans-serif"], font_mono=["monospace"])
with gradio.Blocks(analytics_enabled=False, theme=theme) as webui:
    with gradio.Tabs():
        with gradio.TabItem("txt2img", id="txt2img"):
            gradio.Textbox(label="Prompt")
        for blocks, title, name in interfaces:
            with gradio.TabItem(title, id=name, elem_id=f"tab_{name}"):
                blocks.render()

webui.queue(64)
_, address, _ = webui.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, show_api=False)
print(f"at {address}", flush=True)
webui.block_thread()
