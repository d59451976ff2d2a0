"""What one run was asked to do: made once from the command line, passed along, never changed."""

import json
import tomllib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import tomli_w


@dataclass(frozen=True)
class Settings:
    """One run's request.

    Empty tuples and ``None`` mean "not asked for": every participant, every session, every
    contrast found. ``derivatives`` holds ``NAME=PATH`` or ``PATH``; ``inputs`` names in
    {'T1w', 'T2w', 'MD', 'FA', 'S0', 'FLAIR'}; ``mem_gb`` is in GB (1e9 bytes).
    """

    bids_dir: Path
    output_dir: Path
    levels: tuple[str, ...] = ('participant',)
    participants: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    bids_filters: dict[str, Any] = field(default_factory=dict)
    bids_database_dir: Path | None = None
    derivatives: tuple[str, ...] = ()
    derivatives_only: bool = False
    dicom: tuple[str, ...] = ()
    dicom_rules: dict[str, Any] = field(default_factory=dict)
    skip_bids_validation: bool = False
    feed: Path | None = None

    backend: str = 'auto'
    model: str = 'default'
    inputs: tuple[str, ...] = ()
    device: str = 'auto'

    model_name: str = ''
    recipe: str = 'default'
    target: str = 'FLAIR'
    holdout: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    patience: int | None = None
    dropout: float = 0.5
    literal: bool = False
    fine_tune: str = ''
    compare: tuple[str, ...] = ()
    resume: bool = False

    nprocs: int = 1
    omp_nthreads: int = 1
    mem_gb: float | None = None
    low_mem: bool = False
    plugin: dict[str, Any] = field(default_factory=dict)

    work_dir: Path = Path('work')
    clean_workdir: bool = False
    boilerplate_only: bool = False
    reports_only: bool = False
    write_graph: bool = False
    stop_on_first_crash: bool = False
    resource_monitor: bool = False
    dry_run: bool = False
    debug: bool = False
    random_seed: int = 0
    verbosity: int = 0

    def to_toml(self) -> str:
        """Text that :meth:`from_toml` and ``--config-file`` read back, without what is unset."""
        return tomli_w.dumps(
            {
                key: _plain(value)
                for key, value in asdict(self).items()
                if value is not None and value not in ((), {})
            }
        )

    @classmethod
    def from_toml(cls, text: str) -> 'Settings':
        """Inverse of :meth:`to_toml`.

        Raises
        ------
        TypeError
            If a key is not a setting.
        """
        return cls(**typed(tomllib.loads(text)))


def typed(values: dict[str, Any]) -> dict[str, Any]:
    """Turn TOML's strings and lists into the paths and tuples of :class:`Settings`."""
    kinds = {f.name: f.type for f in fields(Settings)}
    return {key: _typed(value, kinds.get(key)) for key, value in values.items()}


def _typed(value: Any, kind: Any) -> Any:
    if kind == dict[str, Any] and isinstance(value, str):
        return json.loads(value)
    if kind in (Path, Path | None):
        return Path(value)
    if isinstance(value, list):
        return tuple(value)
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        # TOML has no null, which a filter needs for "must be absent".
        return json.dumps(value)
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
