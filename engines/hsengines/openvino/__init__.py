"""OpenVINO's backend, on CPUs and on whatever else it finds here; the one place that imports it."""

import sys

# Importing OpenVINO imports its model converter, which writes an id into the user's home and tells Google Analytics
# of it. It does without where the package for that is missing, which it seems to be while OpenVINO is imported here.
if "openvino_telemetry" not in sys.modules:
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import openvino  # noqa: F401
    finally:
        del sys.modules["openvino_telemetry"]
