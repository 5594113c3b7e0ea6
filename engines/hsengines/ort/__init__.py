"""ONNX Runtime's backends, on CPUs and on NVIDIA GPUs; the one place that imports it."""

import os

# Otherwise it writes an id and a database into the user's home and looks up its maker's host. It reads this once, when
# it is imported: switching its events off afterwards stops nothing. A user's own choice is kept.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
