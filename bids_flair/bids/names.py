"""Where each file of a session lies: in the raw dataset, and among the derivatives."""

from pathlib import Path

from bids.layout.writing import build_path

from bids_flair.bids.session import SessionInputs
from bids_flair.descriptor import load_descriptor

RAW = 'raw'


def output_entities(name: str, inputs: SessionInputs) -> dict[str, str]:
    """Entities of one output of a session.

    ``name`` is a key of the descriptor's outputs; a transform has its contrast behind a colon, as
    in ``transform:T2w``. The space is named wherever the image was not acquired in it.
    """
    name, _, contrast = name.partition(':')
    entities = {'subject': inputs.participant, **load_descriptor().outputs[name].entities}
    if inputs.session:
        entities['session'] = inputs.session
    if name == 'transform':
        datatype = 'dwi' if contrast == 'dwi' else 'anat'
        return {**entities, 'from': contrast, 'to': inputs.reference_space, 'datatype': datatype}
    native = (f'preproc_{inputs.reference.lower()}', 'brain_mask')
    if name not in native or inputs.reference_space != inputs.reference:
        entities['space'] = inputs.reference_space
    return entities


def output_path(name: str, inputs: SessionInputs) -> str:
    """Path of one output of a session, below the output directory."""
    pattern = load_descriptor().outputs[name.partition(':')[0]].pattern
    return build_path(output_entities(name, inputs), [pattern])


def output_uri(name: str, inputs: SessionInputs) -> str:
    """BIDS URI of one output, for the sidecars of those made from it."""
    return f'bids::{output_path(name, inputs)}'


def source_uris(contrast: str, inputs: SessionInputs, bids_dir: Path) -> list[str]:
    """BIDS URIs of the files that a contrast of a session, or its tensor maps, come from."""
    names = [contrast]
    if contrast == 'dwi' and inputs.has_maps:
        names = [name for name in ('MD', 'FA', 'S0', 'dwi') if name in inputs.prepared]
    return [
        inputs.prepared[name].uri
        if name in inputs.prepared
        else f'bids:{RAW}:{inputs.images[name].relative_to(bids_dir).as_posix()}'
        for name in names
    ]
