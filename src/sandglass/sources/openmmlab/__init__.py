"""OpenMMLab's config files as a source: a config of mmpose, mmpretrain or mmocr becomes a model card.

Configs are read as data and never run. `config` reads them, `families` describes how the architectures of Sandglass
appear in configs, `cards` converts a config to a card, and `deploy` converts a deploy config to a target.
"""
