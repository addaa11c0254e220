"""The nodes, a module for each step of a merge."""
