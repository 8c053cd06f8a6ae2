"""Image operations: from images to the inputs of networks, and from their outputs to predictions."""
