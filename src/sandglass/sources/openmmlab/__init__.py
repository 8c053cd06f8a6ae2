"""OpenMMLab's own config files as a source: what a config of mmpose, mmpretrain or mmocr says becomes a model card.

Configs are read as data and never run: `config` is the reader, `families` says how an architecture of Sandglass is
written there, and `cards` and `deploy` turn what was read into a card, and into targets.
"""
