"""Pages and plots of docs/ that are made from benchmarks/results and from the presets."""
