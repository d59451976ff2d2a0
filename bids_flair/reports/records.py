"""What a run leaves of each session for reports that are made later."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from bids_flair.bids.files import write_atomically


@dataclass(frozen=True)
class Record:
    """How a session went: seconds per step and, if it failed, why."""

    timings: tuple[tuple[str, float], ...] = ()
    message: str = ''
    traceback: str = ''

    @property
    def failed(self) -> bool:
        """Whether the session has no result."""
        return bool(self.message)


def write_record(record: Record, label: str, folder: Path) -> None:
    """Write the record of a session (``sub-01_ses-02``) into a run's log folder."""
    write_atomically(folder / f'{label}.json', json.dumps(asdict(record), indent=1) + '\n')


def latest_records(output_dir: Path, participant: str) -> dict[str, Record]:
    """Session label to its latest record; the folders of runs are named after their time."""
    files = sorted((output_dir / f'sub-{participant}' / 'log').glob('*/sub-*.json'))
    return {file.stem: _read(file) for file in files}


def _read(file: Path) -> Record:
    values = json.loads(file.read_text())
    timings = tuple((step, seconds) for step, seconds in values['timings'])
    return Record(timings, values['message'], values['traceback'])
