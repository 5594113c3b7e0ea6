"""Makes perceptual distances' graphs out of published weights, and says how far they lie from the authors' packages."""
