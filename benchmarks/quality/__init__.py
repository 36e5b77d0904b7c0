"""What the films of a model show: words followed, switches, drift, memories and presets compared."""
