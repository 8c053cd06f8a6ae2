"""Artifacts: a folder with the files that one runtime loads, and a manifest that says how far they match the graph."""
