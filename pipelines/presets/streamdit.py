"""StreamDiT: a moving buffer of chunks at rising noise and no other memory."""

from cache.none import NoMemory
from cache.positions import SlotIndex
from cache.switches import Keep
from cache.windows import AllRemembered
from pipelines.presets.base import Preset, Schedule

STREAMDIT = Preset(
    name="streamdit",
    title="StreamDiT: a moving buffer of 8 chunks of 2 latent frames, 1 step a chunk and band",
    model="embedded",  # no weights were released
    paper="Kodaira et al. 2025, arXiv 2507.03745",
    licence="method only: neither code nor weights were released",
    plan="moving-buffer",
    # After the distilled model: 16 frames, 8 passes a chunk. These numbers are from memory of the paper and its
    # schedule's shift is not known, so noise falls evenly; `micro_steps` makes the bands of the teacher.
    schedule=Schedule(
        denoising_step_list=(1000, 875, 750, 625, 500, 375, 250, 125), shift=1.0, step="euler", plan="moving-buffer"
    ),
    cache=NoMemory(),
    window=AllRemembered(),
    position=SlotIndex(),
    switch=Keep(),  # there is nothing to replay: frames deep in the buffer follow a new prompt most
    chunk=2,
    fixes=(
        "Every pass attends to the whole buffer: the paper's windows, shifted every other layer, are a model's own "
        "architecture.",
        "The film's first chunks come out of a buffer that fills from the front, a chunk a band: nothing has to be "
        "thrown away.",
    ),
)
