"""`python -m app` is `rivulet`: for a checkout whose console script is not installed."""

import sys

from app.cli.main import main

sys.exit(main())
