"""Training that can be cut short at any moment: all of its state in one file, written whole."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from bids_flair.models.files import replace_file

OPTIMIZER = 'optimizer'


def write_checkpoint(
    path: Path,
    weights: Mapping[str, Mapping[str, Tensor]],
    optimizer: torch.optim.Optimizer,
    told: Mapping[str, Any],
) -> None:
    """Write named sets of weights, the optimizer's moments and whatever JSON can hold."""
    parts = dict(weights)
    for i, moments in optimizer.state_dict()['state'].items():
        parts[f'{OPTIMIZER}/{i}'] = moments
    tensors = {
        f'{part}:{key}': value.detach().cpu().clone().contiguous()
        for part, values in parts.items()
        for key, value in values.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, save_tensors(tensors, {'told': json.dumps(told)}))


def read_checkpoint(
    path: Path, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Inverse of `write_checkpoint`; the optimizer is given its moments back."""
    parts: dict[str, dict[str, Tensor]] = {}
    with safe_open(path, 'pt') as file:
        told = json.loads(file.metadata()['told'])
        for name in file.keys():  # noqa: SIM118
            part, key = name.split(':', 1)
            parts.setdefault(part, {})[key] = file.get_tensor(name)
    moments = {
        int(part.removeprefix(f'{OPTIMIZER}/')): parts.pop(part)
        for part in list(parts)
        if part.startswith(f'{OPTIMIZER}/')
    }
    groups = optimizer.state_dict()['param_groups']
    optimizer.load_state_dict({'state': moments, 'param_groups': groups})
    return parts, told
