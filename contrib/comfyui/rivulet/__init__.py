"""Rivulet's nodes for ComfyUI: load an engine, begin a film, go on with it under other words.

ComfyUI imports this folder and reads the two mappings; README.md says where to put it.
"""

from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
