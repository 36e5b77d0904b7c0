"""The neural networks: causal video transformer, autoencoders and text encoders, as pure modules.

A module here is a function of (weights, inputs, state passed in): no files, no globals, no hidden memory, so that
snapshots of a stream hold everything. To add one: a new file with a diffusers ModelMixin, and a loader in
pipelines/build.py.
"""
