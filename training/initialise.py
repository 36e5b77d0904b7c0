"""First weights of an autoencoder without norms, scaled on real clips so that the picture reaches its latents."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.taehv import AutoencoderTAEHV, MemBlock


@torch.no_grad()
def initialise(model: AutoencoderTAEHV, pixels: Tensor) -> None:
    """Make every trunk convolution's output unit-sized on real clips (Mishkin and Matas 2015, arXiv 1511.06422).

    There are no norms, and with torch's default initialisation the picture's share of the signal shrinks layer by
    layer until the noise on the latents drowns it: training then stays at the mean colour. Residual branches start
    small (He et al. 2015, arXiv 1502.01852, times 0.3).
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.normal_(0.0, (2.0 / module.weight[0].numel()) ** 0.5)
            if module.bias is not None:
                module.bias.zero_()
    x = model.fold(pixels[:, : model.time_scale]).flatten(0, 1)
    for layer in [*model.encoder, *model.decoder]:
        if isinstance(layer, MemBlock):
            layer.conv[4].weight.mul_(0.3)
            x = layer(x, x)
            continue
        conv = layer if isinstance(layer, nn.Conv2d) else getattr(layer, "conv", None)
        if conv is not None:
            std, mean = torch.std_mean(layer(x), dim=(0, 2, 3))
            conv.weight.div_(std.mean())
            if conv.bias is not None:
                conv.bias.copy_(-mean / std.mean())
        x = layer(x)
    model.decoder[-1].weight.mul_(0.2)  # pixels: spread about 0.2 around grey
    model.decoder[-1].bias.mul_(0.2).add_(0.5)
