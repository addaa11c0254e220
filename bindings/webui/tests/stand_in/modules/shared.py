"""The command line, as the WebUI's built-in Lora extension adds to it."""

import argparse
import os

cmd_opts = argparse.Namespace(
    lora_dir=os.environ["STAND_IN_LORAS"],
    lyco_dir_backcompat=os.path.join(os.environ["STAND_IN_LORAS"], "..", "LyCORIS"),
)
