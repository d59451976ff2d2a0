"""A model on disk: ``NAME.safetensors`` for its weights and ``NAME.json``, its card.

Never a pickle: loading a model runs no code from it.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from bids_flair.errors import BidsFlairError, ExitCode
from bids_flair.models.cards import find_weights, read_card
from bids_flair.models.committee import Committee
from bids_flair.models.network import Architecture, PatchRegressor
from bids_flair.models.paper import PaperArchitecture, PaperNetwork
from bids_flair.models.regressor import Regressor
from bids_flair.models.trees import BoostedTrees, TreesArchitecture

NETWORKS = {
    'PatchRegressor': (PatchRegressor, Architecture),
    'PaperNetwork': (PaperNetwork, PaperArchitecture),
    'BoostedTrees': (BoostedTrees, TreesArchitecture),
}


@dataclass(frozen=True)
class Model:
    """A network ready to predict, and its card."""

    name: str
    network: Regressor | Committee
    card: dict[str, Any]


def load_model(name_or_path: str | Path) -> Model:
    """Read a model.

    Parameters
    ----------
    name_or_path : str or Path
        Name of a shipped model; or a ``.safetensors`` or ``.json`` file, the other being beside
        it; or a folder that holds one model.

    Raises
    ------
    BidsFlairError
        If a file is missing, cannot be understood, or the weights are not those of the card.
    """
    weights = find_weights(name_or_path)
    card = read_card(weights.with_suffix('.json'))
    content = weights.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != card['sha256']:
        raise BidsFlairError(
            f'{weights} is not the file its card was written for (SHA-256 {found[:12]}..., '
            f'expected {card["sha256"][:12]}...). Copy both files of the model again.',
            ExitCode.DATA_UNUSABLE,
        )
    network = _build(card)
    try:
        tensors = load_tensors(content)
        if isinstance(network, Committee):
            tensors = _of_today(tensors, network)
        network.load_state_dict(tensors)
    except (SafetensorError, RuntimeError) as error:
        raise BidsFlairError(
            f'{weights} does not hold the network that its card describes: {error}',
            ExitCode.DATA_UNUSABLE,
        ) from error
    return Model(weights.stem, network.eval().requires_grad_(False), card)


def needs_every_input(model: Model) -> bool:
    """Whether a model was trained on all of its inputs together and never without one."""
    return model.card.get('needs_every_input', False)


def save_model(weights: Path, network: Regressor | Committee, card: Mapping[str, Any]) -> Model:
    """Write ``NAME.safetensors`` and ``NAME.json``, each whole or not at all.

    Parameters
    ----------
    weights : Path
        Ends in ``.safetensors``.
    card : mapping
        What there is to say of the model; ``network``, ``architecture``,
        ``simulated_only``, ``specialists``, ``abroad`` and ``sha256`` are added.
    """
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    content = save_tensors(state)
    together = isinstance(network, Committee)
    full = {
        **card,
        **_describe(network.generalist if together else network),
        'specialists': [_describe(one) for one in network.specialists] if together else [],
        'abroad': [_describe(one) for one in network.abroad] if together else [],
        'sha256': hashlib.sha256(content).hexdigest(),
    }
    weights.parent.mkdir(parents=True, exist_ok=True)
    replace_file(weights, content)
    replace_file(weights.with_suffix('.json'), (json.dumps(full, indent=2) + '\n').encode())
    return Model(weights.stem, network, full)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old or the new content, never a part."""
    part = path.with_name(f'.{path.name}.{os.getpid()}')
    part.write_bytes(content)
    part.replace(path)


def _describe(network: Regressor) -> dict[str, Any]:
    return {
        'network': type(network).__name__,
        'architecture': asdict(network.architecture),
        'simulated_only': network.simulated_only,
    }


def _build(card: Mapping[str, Any]) -> Regressor | Committee:
    network = _build_one(card)
    specialists = [_build_one(one) for one in card.get('specialists', [])]
    abroad = card.get('abroad') or []
    abroad = [_build_one(one) for one in (abroad if isinstance(abroad, list) else [abroad])]
    return Committee(network, specialists, abroad) if specialists or abroad else network


def _of_today(tensors: dict[str, Tensor], committee: Committee) -> dict[str, Tensor]:
    """Older committees were written without accords, and with one network for abroad."""
    numbered = re.compile(r'abroad\.(?!\d+\.)')
    return {'accords': committee.accords} | {
        numbered.sub('abroad.0.', key): value for key, value in tensors.items()
    }


def _build_one(description: Mapping[str, Any]) -> Regressor:
    network, architecture = NETWORKS[description['network']]
    shape = description['architecture']
    lists = {name: tuple(value) for name, value in shape.items() if isinstance(value, list)}
    built = network(architecture(**shape | lists))
    built.simulated_only = description.get('simulated_only', False)
    return built
