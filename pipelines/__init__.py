"""The order of things: presets, the streaming loop and what it remembers.

Add a preset: one file in pipelines/presets with a frozen dataclass literal, one line in its registry.
"""
