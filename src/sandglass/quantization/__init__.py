"""From a float graph and calibration samples to a plan: which layers run in int8, with which scales."""
