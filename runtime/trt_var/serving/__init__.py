"""Many callers on one pipeline: requests gathered into batches, and an HTTP service over them.

What only a server needs is imported by ``serving.app`` and ``serving.server`` alone; ``serving.batching`` needs no more than
the pipeline does.
"""
