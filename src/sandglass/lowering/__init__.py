"""Rewrites of a graph into forms that a runtime computes faster or more exactly; the results stay the same."""
