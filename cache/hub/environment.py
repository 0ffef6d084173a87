"""Switches that huggingface_hub reads once, when it is imported; so this module is imported before it."""

import os

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
# Plain HTTP, so that progress, cancelling and time limits are ours; '0' brings Xet back, faster on a wide line.
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
