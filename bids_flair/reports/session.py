"""What a session's report shows, read back from the derivatives that were written."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bids_flair.bids.collect import SessionInputs
from bids_flair.bids.names import output_path
from bids_flair.descriptor import load_descriptor
from bids_flair.reports.participant import RegistrationView, SessionReport


def read_sidecar(inputs: SessionInputs, output_dir: Path) -> dict[str, Any]:
    """Sidecar of a session's synthetic FLAIR."""
    image = output_dir / output_path('synthetic_flair', inputs)
    return json.loads(image.with_name(image.name.replace('.nii.gz', '.json')).read_text())


def session_report(
    inputs: SessionInputs, output_dir: Path, timings: Sequence[tuple[str, float]]
) -> SessionReport:
    """Gather a session's images and figures.

    Parameters
    ----------
    inputs : SessionInputs
        What the session was processed from.
    output_dir : Path
        Where its derivatives are.
    timings : sequence of (str, float)
        Step and seconds.
    """
    sidecar = read_sidecar(inputs, output_dir)
    there = {
        name: output_dir / output_path(name, inputs)
        for name in load_descriptor().outputs
        if name != 'transform'
    }
    there = {name: path for name, path in there.items() if path.exists()}
    maps = {name.upper(): there[name] for name in ('md', 'fa', 's0') if name in there}
    reference = there.get(f'preproc_{inputs.reference.lower()}', there.get('s0'))
    return SessionReport(
        participant=inputs.participant,
        session=inputs.session,
        inputs={name: str(path) for name, path in inputs.images.items()},
        made_from=tuple(sidecar['SynthesisInputs']),
        missing=tuple(c for c in load_descriptor().contrasts if c not in inputs.images),
        warnings=(*sidecar['Warnings'], *inputs.passed_over),
        mask=there['brain_mask'],
        reference=reference,
        registrations=tuple(_views(sidecar, there, reference)),
        maps=maps,
        flair=there['synthetic_flair'],
        std=there['synthetic_flair_std'],
        acquired=there.get('preproc_flair'),
        scores=sidecar.get('ScoresInBrain', {}),
        details={**_details(sidecar), **{step: f'{s:.0f} s' for step, s in timings}},
    )


def _views(sidecar, there, reference):
    for report in sidecar['Registrations']:
        contrast = report['Contrast']
        name = 's0' if contrast == 'dwi' else f'preproc_{contrast.lower()}'
        if name in there and there[name] != reference:
            scores = {k: v for k, v in report.items() if isinstance(v, float)}
            yield RegistrationView(contrast, reference, there[name], scores)


def _details(sidecar: dict[str, Any]) -> dict[str, str]:
    model = sidecar['SynthesisModel']
    versions = sidecar['PackageVersions']
    return {
        'Synthesised from': ', '.join(sidecar['SynthesisInputs']),
        'Model': f'{model.get("name", "")} {model.get("version", "")}',
        'SHA-256 of the weights': model.get('sha256', ''),
        'Unlike the training': f'{sidecar["OutOfDistributionScore"]:.2f} (up to 1 is familiar)',
        'Scanner': 'known to a specialist of the model'
        if 'specialist' in sidecar['NetworkShares']
        else 'none that the model has a specialist for',
        'Device': sidecar['Device'],
        'Backend': sidecar['Backend'],
        'Software': ', '.join(f'{name} {version}' for name, version in versions.items()),
        'Brain volume': f'{sidecar["BrainMask"]["VolumeLitres"]} l',
    }
