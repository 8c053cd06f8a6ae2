"""From a float graph and calibration samples to a plan: the layers in int8, and their scales."""
