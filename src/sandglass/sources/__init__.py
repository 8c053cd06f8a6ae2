"""From what a user names (a card, an ONNX or ncnn file, a checkpoint) to a checked float graph."""
