"""``python -m trt_var``."""

import sys

from trt_var.cli.main import main

sys.exit(main())
