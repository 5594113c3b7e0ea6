"""One core of rounds, clocks, intervals and metrics; bench, tune, gpu_check and every measurement on it."""
