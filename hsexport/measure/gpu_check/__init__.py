"""What one GPU machine can do with a bundle: builds, parity, times, memory; `scripts/gpu_check --help`."""
