"""Many images into a folder of shards."""

from trt_var.bulk.shards import Bulk, read_images, sample

__all__ = ["Bulk", "read_images", "sample"]
