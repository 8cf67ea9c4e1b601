"""Several workers on one machine, for those whose house runs everything under gunicorn (see asgi.py for what it costs).

pip install "trt-var[cpu,serve]" gunicorn uvicorn-worker
gunicorn --config examples/serving/gunicorn.conf.py --chdir examples/serving "asgi:app()"
"""

import os

bind = "127.0.0.1:8080"
workers = 2
worker_class = "uvicorn_worker.UvicornWorker"
raw_env = [f"TRT_VAR_THREADS={max(1, len(os.sched_getaffinity(0)) // workers)}"]  # otherwise each takes all processors
preload_app = False  # a fork shares no models anyway, and none may be loaded before it (docs/embedding.md)
timeout = 120  # without a sign of life from a worker: more than its models take to load
graceful_timeout = 70  # more than a request may take
