"""What runs a model for the search: torch, or the ONNX runtime over graphs exported from torch."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # otherwise the ONNX runtime sends usage data to its maker
