"""Pictures from arrays: where the words of a caption look, and how a training went. Nothing here knows a model, a data
set or a screen."""

from captioner.visualize.attention import attention_figure, save_attention
from captioner.visualize.curves import save_curves, training_curves
from captioner.visualize.heatmap import heat_map, level, overlay, scale_top

__all__ = [
    "attention_figure",
    "heat_map",
    "level",
    "overlay",
    "save_attention",
    "save_curves",
    "scale_top",
    "training_curves",
]
