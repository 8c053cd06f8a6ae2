"""From a plan to the fastest int8 artifact that keeps a budget of accuracy."""
