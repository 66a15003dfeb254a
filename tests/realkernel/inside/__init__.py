"""What runs in the emulated machine. Only the standard library: each import takes long there."""
