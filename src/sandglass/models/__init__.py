"""The seam of models: one file is one architecture family in plain torch.nn. A model knows no task and no card.

A file whose name begins with an underscore holds what families share. Each other file defines, at module level:

    OUTPUTS      names of what the module returns, in order; they become the graph's outputs
    TINY         arguments of a member small enough to be built, exported and run in a second
    TINY_SIZE    a size (height, width) of images for it
    build(**arguments) -> nn.Module
                 in evaluation mode, taking images (N, 3, H, W) float32 and returning a tensor, or a tuple of them,
                 batch first. The defaults are a published member, and state-dict keys are those of its published
                 checkpoint in OpenMMLab 1.x names
"""
