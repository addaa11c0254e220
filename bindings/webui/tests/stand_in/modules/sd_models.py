"""The checkpoints by their titles."""

import os
from dataclasses import dataclass


@dataclass
class CheckpointInfo:
    """What the WebUI knows of one."""

    filename: str
    name: str


_base = os.environ["STAND_IN_BASE"]
checkpoints_list = {f"{os.path.basename(_base)} [0123456789]": CheckpointInfo(_base, os.path.basename(_base))}
