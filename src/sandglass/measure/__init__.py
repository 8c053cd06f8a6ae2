"""Measurements of artifacts on their runtimes: accuracy, speed, settings, and the layers in int8."""
