"""`python -m cancerllm_utils.report RUN_DIR` writes a run's report; `--figures PROFILE` copies its figures to figures/."""

import sys

from cancerllm_utils.errors import UserError
from cancerllm_utils.report import pages

try:
    print(pages.main(sys.argv[1:]))
except UserError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
