"""CancerLLM, open and re-runnable: the thin package behind the notebooks."""

__version__ = "0.4.0"
