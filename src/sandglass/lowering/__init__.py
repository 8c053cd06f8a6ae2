"""Lowerings: rewrites of a graph into forms that a runtime computes faster or more exactly. The results stay the same.

A lowering takes a model, changes it in place and returns nothing.
"""
