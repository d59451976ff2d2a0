"""What the files of a model are, and what its card says. Without PyTorch: workflows ask, too."""

import hashlib
import json
from pathlib import Path
from typing import Any

from bids_flair.errors import BidsFlairError, ExitCode

SHIPPED = Path(__file__).parent / 'weights'


def shipped_models() -> tuple[str, ...]:
    """Names of the models that come with the package."""
    return tuple(sorted(path.stem for path in SHIPPED.glob('*.safetensors')))


def fingerprint(name_or_path: str | Path) -> str:
    """What tells a model from another of its name: SHA-256 of its card, which holds that of its
    weights, and its calibration.

    Raises
    ------
    BidsFlairError
        If a file is missing.
    """
    card = find_weights(name_or_path).with_suffix('.json')
    return hashlib.sha256(card.read_bytes()).hexdigest()


def find_weights(name_or_path: str | Path) -> Path:
    """The ``.safetensors`` file of a model, of whose files this is one: see `load_model`.

    Raises
    ------
    BidsFlairError
        If a file is missing, or a folder holds several models.
    """
    if str(name_or_path) in shipped_models():
        return SHIPPED / f'{name_or_path}.safetensors'
    path = Path(name_or_path)
    if path.is_dir():
        inside = sorted(path.glob('*.safetensors'))
        if len(inside) != 1:
            raise BidsFlairError(
                f'{path} holds {len(inside)} .safetensors files: give the one to use.',
                ExitCode.INPUT_MISSING,
            )
        return inside[0]
    if path.suffix not in ('.safetensors', '.json') or not path.exists():
        raise BidsFlairError(
            f'no model {name_or_path!s}: give one of {", ".join(shipped_models()) or "none"} '
            '(shipped), or the path of a .safetensors file with its .json beside it.',
            ExitCode.INPUT_MISSING,
        )
    weights = path.with_suffix('.safetensors')
    for file in (weights, weights.with_suffix('.json')):
        if not file.exists():
            raise BidsFlairError(
                f'{path} is half a model: {file} is missing. Copy it beside the other.',
                ExitCode.INPUT_MISSING,
            )
    return weights


def read_card(path: Path) -> dict[str, Any]:
    """What a ``.json`` file says of a model.

    Raises
    ------
    BidsFlairError
        If it is missing, is no JSON, or says too little.
    """
    try:
        card = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise BidsFlairError(
            f'the model has no card: {path} is missing. Copy it beside the weights.',
            ExitCode.INPUT_MISSING,
        ) from error
    except json.JSONDecodeError as error:
        raise BidsFlairError(
            f'{path} is not JSON ({error}). Copy the model again.', ExitCode.DATA_UNUSABLE
        ) from error
    missing = {'network', 'architecture', 'inputs', 'target', 'sha256'} - set(card)
    if missing:
        raise BidsFlairError(
            f'{path} is not the card of a model: it lacks {", ".join(sorted(missing))}.',
            ExitCode.DATA_UNUSABLE,
        )
    return card
