"""Where a run happens: Lightning Fabric for devices, machines and precision.

In: the settings of a run. Out: a launched Fabric; from then on every rank runs the same lines.
"""

from __future__ import annotations

import torch
from lightning_fabric import Fabric

from cromss.config import EvaluateConfig, PredictConfig, PretrainConfig, TransferConfig, require_at_least
from cromss.errors import ConfigError
from cromss.memory import keep_freed_memory

__all__ = ["launch", "limit_threads"]


def launch(config: PretrainConfig | TransferConfig, *, deterministic: bool = False) -> Fabric:
    """Start the processes that `config` asks for. Raises ConfigError for a precision or device that is not there."""
    require_at_least(config, devices=1, nodes=1)
    gpu = config.accelerator != "cpu" and torch.cuda.is_available()
    if config.accelerator == "gpu" and not gpu:
        raise ConfigError("there is no GPU here", got="accelerator gpu", do="use --accelerator cpu or auto")
    if config.precision == "16-mixed" and not gpu:  # Fabric would quietly take bf16-mixed instead
        raise ConfigError("precision 16-mixed needs a GPU", got="no GPU", do="use 32-true or bf16-mixed")
    if gpu and config.devices > torch.cuda.device_count():
        raise ConfigError(
            "there are fewer GPUs here", got=f"devices {config.devices}", expected=torch.cuda.device_count()
        )
    limit_threads(config)
    keep_freed_memory()
    torch.use_deterministic_algorithms(deterministic)
    fabric = Fabric(
        accelerator="cuda" if gpu else "cpu",  # "auto" would take Apple's GPU, which has no float64 for the scores
        devices=config.devices,
        num_nodes=config.nodes,
        precision=config.precision,
        strategy="ddp" if config.devices * config.nodes > 1 else "auto",
    )
    fabric.launch()
    return fabric


def limit_threads(config: PretrainConfig | TransferConfig | EvaluateConfig | PredictConfig) -> None:
    """Set torch's CPU threads to `config.threads`; null leaves them. Raises ConfigError for fewer than one."""
    require_at_least(config, threads=1)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
