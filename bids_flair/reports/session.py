"""What a session's report shows, read back from the derivatives that were written."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bids.layout import parse_file_entities

from bids_flair.bids.names import output_path
from bids_flair.bids.session import SessionInputs
from bids_flair.descriptor import load_descriptor
from bids_flair.processing.itk import read_itk
from bids_flair.reports.content import FailedSession, RegistrationView, SessionReport
from bids_flair.reports.records import latest_records


def read_sidecar(inputs: SessionInputs, output_dir: Path) -> dict[str, Any]:
    """Sidecar of a session's synthetic FLAIR."""
    image = output_dir / output_path('synthetic_flair', inputs)
    return json.loads(image.with_name(image.name.replace('.nii.gz', '.json')).read_text())


def pages_of(
    sessions: Sequence[SessionInputs], output_dir: Path
) -> list[SessionReport | FailedSession]:
    """What is known of those sessions of one participant that were processed, by whichever run."""
    pages: list[SessionReport | FailedSession] = []
    records = latest_records(output_dir, sessions[0].participant)
    for inputs in sessions:
        record = records.get(inputs.label)
        if record and record.failed:
            pages.append(failed_session(inputs, record.message, record.traceback))
        elif inputs.reference and (output_dir / output_path('synthetic_flair', inputs)).exists():
            timings = record.timings if record else ()
            pages.append(session_report(inputs, output_dir, timings))
    return pages


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
    refused = [r['Contrast'] for r in sidecar['Registrations'] if not r['Trusted']]
    reference = there.get(f'preproc_{inputs.reference.lower()}', there.get('s0'))
    return SessionReport(
        participant=inputs.participant,
        session=inputs.session,
        inputs=_files(inputs),
        missing=missing_contrasts(inputs),
        warnings=(*sidecar['Warnings'], *inputs.passed_over),
        mask=there['brain_mask'],
        reference=reference,
        registrations=tuple(_views(inputs, output_dir, sidecar, there, reference)),
        maps=maps,
        flair=there['synthetic_flair'],
        std=there['synthetic_flair_std'],
        acquired=None if 'FLAIR' in refused else there.get('preproc_flair'),
        timings=timings,
        low=there.get('synthetic_flair_low'),
        high=there.get('synthetic_flair_high'),
        images=_anatomy(there, refused),
        **_findings(sidecar),
    )


def _anatomy(there: Mapping[str, Path], refused: Sequence[str]) -> dict[str, Path]:
    """What a person compares the synthetic FLAIR with: T1w and T2w, where there is none S0."""
    images = {
        name: there[f'preproc_{name.lower()}']
        for name in ('T1w', 'T2w')
        if f'preproc_{name.lower()}' in there and name not in refused
    }
    return images or ({'S0': there['s0']} if 's0' in there else {})


def session_without_pictures(sidecar_file: Path) -> SessionReport:
    """What a synthetic FLAIR's sidecar alone tells, which is enough to check the session."""
    sidecar = json.loads(sidecar_file.read_text())
    image = sidecar_file.with_suffix('.nii.gz')
    labels = parse_file_entities(str(image))
    return SessionReport(
        participant=labels['subject'],
        session=labels.get('session'),
        inputs={},
        missing=(),
        warnings=tuple(sidecar['Warnings']),
        mask=image,
        reference=image,
        registrations=tuple(
            RegistrationView(
                report['Contrast'], image, None, _figures(report), trusted=report['Trusted']
            )
            for report in sidecar['Registrations']
        ),
        maps={},
        flair=image,
        std=None,
        acquired=None,
        **_findings(sidecar),
    )


def _findings(sidecar: dict[str, Any]) -> dict[str, Any]:
    return {
        'made_from': tuple(sidecar['SynthesisInputs']),
        'scores': sidecar.get('ScoresInBrain', {}),
        'details': _details(sidecar),
        'brain': sidecar['BrainMask'],
        'unfamiliarity': sidecar['OutOfDistributionScore'],
        'uncertainty': sidecar.get('MedianUncertainty'),
        'intensities': sidecar.get('IntensityQuantiles', {}),
        'factors': sidecar['IntensityFactors'],
        'head_motion': sidecar.get('HeadMotion', {}),
    }


def _figures(report: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in report.items() if isinstance(value, float)}


def failed_session(inputs: SessionInputs, message: str, traceback: str) -> FailedSession:
    """What there is to say of a session without result."""
    return FailedSession(
        inputs.participant,
        inputs.session,
        message,
        traceback,
        inputs=_files(inputs),
        missing=missing_contrasts(inputs),
    )


def _files(inputs: SessionInputs) -> dict[str, str]:
    """Every file that a session was processed from."""
    prepared = {name: one.path for name, one in inputs.prepared.items()}
    return {name: str(path) for name, path in {**inputs.images, **prepared}.items()}


def missing_contrasts(inputs: SessionInputs) -> tuple[str, ...]:
    """What was looked for and not found."""
    return tuple(name for name in load_descriptor().contrasts if name not in inputs.contrasts)


def _views(
    inputs: SessionInputs, output_dir: Path, sidecar: dict[str, Any], there, reference: Path
) -> Iterator[RegistrationView]:
    """What was registered; the pose before is shown where the raw image is still there."""
    for report in sidecar['Registrations']:
        contrast = report['Contrast']
        name = 's0' if contrast == 'dwi' else f'preproc_{contrast.lower()}'
        moving = there.get(name) if report['Trusted'] else None
        if moving == reference:
            continue
        transform = output_dir / output_path(f'transform:{contrast}', inputs)
        native = inputs.images.get(contrast)
        yield RegistrationView(
            contrast,
            reference,
            moving,
            _figures(report),
            trusted=report['Trusted'],
            native=native if native and native.exists() else None,
            matrix=read_itk(transform) if transform.exists() else None,
        )


def _details(sidecar: dict[str, Any]) -> dict[str, str]:
    model = sidecar['SynthesisModel']
    known = sidecar.get('NetworkShares', {}).get('specialist')
    versions = sidecar['PackageVersions']
    return {
        'Synthesised from': ', '.join(sidecar['SynthesisInputs']),
        'Model': f'{model.get("name", "")} {model.get("version", "")}',
        'SHA-256 of the weights': model.get('sha256', ''),
        'Scanner': f'like one that specialists of the model know: they count for {known:.0%}'
        if known
        else 'none that the model has a specialist for',
        'Device': sidecar['Device'],
        'Backend': sidecar['Backend'],
        'Software': ', '.join(f'{name} {version}' for name, version in versions.items()),
        'Brain volume': f'{sidecar["BrainMask"]["VolumeLitres"]} l',
    }
