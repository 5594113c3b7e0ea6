"""The denoising loop: the step's program, its buffers, the region."""
