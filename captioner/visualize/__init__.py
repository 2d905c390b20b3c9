"""Pictures from arrays: the attention of a caption, and the curves of a training run. Nothing here knows a model, a
data set or a screen."""

from captioner.visualize.animation import save_animation
from captioner.visualize.attention import attention_figure, save_attention
from captioner.visualize.curves import save_curves, training_curves
from captioner.visualize.files import save_caption
from captioner.visualize.heatmap import heat_map, level, overlay, scale_top
from captioner.visualize.html import save_page
from captioner.visualize.range_test import save_range_test
from captioner.visualize.view import caption_view

__all__ = [
    "attention_figure",
    "caption_view",
    "heat_map",
    "level",
    "overlay",
    "save_animation",
    "save_attention",
    "save_caption",
    "save_curves",
    "save_page",
    "save_range_test",
    "scale_top",
    "training_curves",
]
