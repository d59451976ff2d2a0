"""Ask, in a process of its own, whether a model and a device can be used.

The process that runs workflows must never touch CUDA: its workers could not use it afterwards.
"""

import json
import subprocess
import sys
from typing import Any

from bids_flair.errors import BidsFlairError, ExitCode


def probe(model: str, device: str) -> dict[str, Any]:
    """Load a model and pick a device, elsewhere.

    Returns
    -------
    dict
        'device' (as PyTorch names it), 'device_name' (for a person), 'model' (its name), 'inputs'
        (what it takes), 'needs_every_input' and 'target' (what it makes).

    Raises
    ------
    BidsFlairError
        If the model cannot be read or the device not be used: which and why.
    """
    answer = subprocess.run(
        [sys.executable, '-m', 'bids_flair.models.probe', model, device],
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode not in (0, ExitCode.WRONG_ARGUMENTS):
        raise BidsFlairError(f'PyTorch cannot be started:\n{answer.stderr.strip()}')
    found = json.loads(answer.stdout.splitlines()[-1])
    if 'error' in found:
        raise BidsFlairError(found['error'], ExitCode(found['code']))
    return found


def _answer(model: str, device: str) -> dict[str, Any]:
    from bids_flair.models.files import load_model, needs_every_input
    from bids_flair.models.inference import pick_device

    try:
        picked = pick_device(device)
        loaded = load_model(model)
    except BidsFlairError as error:
        return {'error': str(error), 'code': int(error.code)}
    except ValueError as error:
        return {'error': f'--device {device}: {error}', 'code': int(ExitCode.WRONG_ARGUMENTS)}
    return {
        'device': str(picked),
        'device_name': _device_name(picked),
        'model': loaded.name,
        'inputs': loaded.card['inputs'],
        'needs_every_input': needs_every_input(loaded),
        'target': loaded.card['target'],
    }


def _device_name(device) -> str:
    import torch

    if device.type != 'cuda':
        return str(device)
    name = torch.cuda.get_device_name(device)
    return f'{device} ({name}, CUDA {torch.version.cuda})'


if __name__ == '__main__':
    print(json.dumps(_answer(*sys.argv[1:])))
