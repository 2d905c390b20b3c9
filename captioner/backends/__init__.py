"""What runs a model for the search: torch, or the ONNX runtime over graphs exported from torch."""
