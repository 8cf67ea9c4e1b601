"""A device and engines simulated in host memory, for machines without a GPU."""
