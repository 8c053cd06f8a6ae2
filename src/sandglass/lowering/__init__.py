"""Lowerings: rewrites of a graph into forms that a runtime computes faster or more exactly, with the same results.

A lowering takes a model, changes it in place and returns nothing.
"""
