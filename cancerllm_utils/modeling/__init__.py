"""Base models, training, generation. The hub's libraries are told not to report anything before the first of them is imported."""

import os

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
