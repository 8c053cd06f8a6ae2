"""Tables of models, backends and precisions: the TOML file, the run that fills the cells, and the output formats."""
