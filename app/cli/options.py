"""Flags that several commands share."""

from typing import Annotated

import typer

from app.config.readers import MOST_THREADS

ModelName = Annotated[
    str | None, typer.Option("--model", help="Name or folder of a model.", show_default="the preset's")
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, max=MOST_THREADS, help="CPU threads.", show_default="all cores")
]
DeviceName = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
