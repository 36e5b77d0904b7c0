"""Where parameters come from: catalogue, download, strict loading, key renaming, LoRA merging.

Strict everywhere, because a checkpoint that loads half way still makes a film, only a wrong one. The package
knows no model: the class to fill comes as an argument (`load_component(cls, folder)`), and
`pipelines/build.py` is where names meet classes. Add a model = one entry in `weights/catalog.py`.
"""
