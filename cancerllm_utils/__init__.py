"""CancerLLM, open and re-runnable: the thin package behind the notebooks."""

import sys

__version__ = "0.5.0"

# Every Jupyter library imports jsonschema, which at once builds a grammar of international addresses (2 s of processor time in each of a step's
# processes) for a check that notebooks do not have. Where this package is absent it does without.
sys.modules.setdefault("rfc3987_syntax", None)
