"""The checkpoint format: `manifest` checks its files without torch, `tensors` reads and writes them, `card` describes them."""
