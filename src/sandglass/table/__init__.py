"""Tables of models, backends and precisions: their TOML file, the run that fills them, and how they are written."""
