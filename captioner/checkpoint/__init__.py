"""The checkpoint format: `manifest` checks files without torch, `tensors` reads and writes them, `card` writes the
model card."""
