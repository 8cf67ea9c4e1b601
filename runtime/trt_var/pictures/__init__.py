"""Picture files: reading given ones, writing drawn ones. Pillow is imported once there is one: arrays do without."""

from trt_var.pictures.masks import Box, box_mask, read_mask
from trt_var.pictures.reading import Picture, read_picture

__all__ = ["Box", "Picture", "box_mask", "read_mask", "read_picture"]
