"""Sources: from a card, an ONNX or ncnn file or a checkpoint to a checked float graph."""
