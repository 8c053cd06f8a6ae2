"""Graphs: reading and writing, running, layers, shapes, and their work in multiply-accumulates."""
