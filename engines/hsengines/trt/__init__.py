"""TensorRT and TensorRT-RTX as backends: one code base, and a module for what each of the two alone has."""
