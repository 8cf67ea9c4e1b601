"""Shards drawn by the devices of a Ray cluster, written by one driver. Ray is imported once a cluster is joined."""

from trt_var.bulk.cluster.driving import sample_on
from trt_var.bulk.cluster.worker import Source

__all__ = ["Source", "sample_on"]
