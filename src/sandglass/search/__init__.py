"""From a plan to the fastest int8 artifact within a budget of accuracy."""
