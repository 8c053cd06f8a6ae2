"""Rewrites of a graph as it was exported: one file is one rewrite, and the network computes the same after it."""
