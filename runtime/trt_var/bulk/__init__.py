"""Many images into a folder: shards, or picture files."""

from trt_var.bulk.merging import merge
from trt_var.bulk.pictures import sample_pictures
from trt_var.bulk.reading import read_images, read_mixed
from trt_var.bulk.recipe import Bulk
from trt_var.bulk.shards import sample

__all__ = ["Bulk", "merge", "read_images", "read_mixed", "sample", "sample_pictures"]
