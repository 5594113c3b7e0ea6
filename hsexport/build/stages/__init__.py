"""The build's stages, each from what the one before made: load, export, optimise, compile, verify, pack."""
