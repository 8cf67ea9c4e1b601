"""Build a bundle: ``python export/build.py --drafter d30 --refiner d16``, as ``trt-var build`` with the same options."""

import sys

from trt_var.cli.main import main

sys.exit(main(["build", *sys.argv[1:]]))
