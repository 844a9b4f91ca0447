"""The settings of every command: one frozen dataclass a command, flat, with the paper's values as defaults.

In: nothing, a YAML file, or flags. Out: plain values; constructors below the commands take those, never a config.
The docstring of a class says what each setting means and in which unit; `cromss COMMAND --help` prints the same text.
"""

from cromss.config.data import DownloadConfig, LabelsConfig, Layout, PrepareConfig, SynthesizeConfig, VerifyConfig
from cromss.config.mapping import from_mapping, require_at_least, to_mapping
from cromss.config.maps import DemoConfig, ExportConfig, ImportConfig, PredictConfig
from cromss.config.training import BenchmarkConfig, EvaluateConfig, PretrainConfig, TransferConfig

__all__ = [
    "BenchmarkConfig",
    "DemoConfig",
    "DownloadConfig",
    "EvaluateConfig",
    "ExportConfig",
    "ImportConfig",
    "LabelsConfig",
    "Layout",
    "PredictConfig",
    "PrepareConfig",
    "PretrainConfig",
    "SynthesizeConfig",
    "TransferConfig",
    "VerifyConfig",
    "from_mapping",
    "require_at_least",
    "to_mapping",
]
