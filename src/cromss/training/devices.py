"""Where a run happens: Lightning Fabric for devices, machines and precision.

In: the settings of a run. Out: a launched Fabric; from then on every rank runs the same lines.
"""

from __future__ import annotations

import torch
from lightning_fabric import Fabric

from cromss.config import PretrainConfig, TransferConfig
from cromss.errors import ConfigError

__all__ = ["launch"]


def launch(config: PretrainConfig | TransferConfig, *, deterministic: bool = False) -> Fabric:
    """Start the processes that `config` asks for. Raises ConfigError for a precision or device that is not there."""
    gpu = config.accelerator != "cpu" and torch.cuda.is_available()
    if config.accelerator == "gpu" and not gpu:
        raise ConfigError("there is no GPU here", got="accelerator gpu", do="use --accelerator cpu or auto")
    if config.precision == "16-mixed" and not gpu:  # Fabric would quietly take bf16-mixed instead
        raise ConfigError("precision 16-mixed needs a GPU", got="no GPU", do="use 32-true or bf16-mixed")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(deterministic)
    fabric = Fabric(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.nodes,
        precision=config.precision,
        strategy="ddp" if config.devices * config.nodes > 1 else "auto",
    )
    fabric.launch()
    return fabric
