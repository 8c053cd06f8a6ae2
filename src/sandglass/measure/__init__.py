"""Measurements of artifacts on their runtimes: accuracy, speed, settings, and what runs in int8."""
