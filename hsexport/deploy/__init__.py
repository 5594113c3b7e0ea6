"""What carries bundles elsewhere and serves them, without torch. Imports hsruntime; never build, families or onnx."""
