"""TensorRT engines on a GPU: contexts, bindings, weights put back."""
