"""A real DeepSpeed engine through accelerate, on the CPU: prints what our two doors say to it, as JSON.

Run as a script with the ZeRO stage; needs the package deepspeed, which the project does not depend on.
"""

from __future__ import annotations

import json
import sys

import torch
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin

from lcia.ema import DynamicEma, Fixed
from lcia.training.parallel import refuse_engines


def main(stage: int) -> None:
    plugin = DeepSpeedPlugin(zero_stage=stage, gradient_accumulation_steps=1)
    plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = 1
    accelerator = Accelerator(deepspeed_plugin=plugin)
    said = {}
    try:
        refuse_engines(accelerator)
    except ValueError as error:
        said["fit"] = str(error)
    model = torch.nn.Linear(4, 4)
    engine, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-2))
    said["engine"] = type(engine).__name__
    try:
        DynamicEma(engine.module.named_parameters(), rule=Fixed(beta=0.9)).attach(optimizer)
    except ValueError as error:
        said["average"] = str(error)
    print(json.dumps(said))


if __name__ == "__main__":
    main(int(sys.argv[1]))
