"""Repairs: changes of the float network, and of ranges and weights, after which rounding loses less."""
