"""From images to the inputs of networks, and from their outputs to what was seen."""
