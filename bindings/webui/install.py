"""Runs before the WebUI starts: installs the Python package, if it isn't there. It needs no more than Python."""

import launch

if not launch.is_installed("lycomerge"):
    launch.run_pip("install lycomerge", "lycomerge")
