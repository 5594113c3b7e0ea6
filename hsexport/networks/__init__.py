"""What a denoising step does between the transformers, as networks, so that it runs where they run."""
