"""``python -m trt_var``."""

import sys

from trt_var.cli import main

sys.exit(main())
