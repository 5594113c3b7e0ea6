"""What surrounds the transformers: text encoders and the VAE's decoder."""
