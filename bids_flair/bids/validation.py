"""The official validator, where it is installed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from bids_flair.bids.files import write_atomically

MOST_SHOWN = 5
KEPT = 'bids_validator.json'


def validator_errors(dataset: Path, database: Path | None = None) -> list[str]:
    """What the official BIDS validator calls errors, one sentence for each kind.

    Real datasets often break a rule that does not matter here, so a caller reports these and goes
    on. Empty where the validator is not installed. Where a database of the dataset is kept, the
    answer is kept in its folder, so that not every job of a cluster looks through everything.
    """
    kept = database / KEPT if database else None
    if kept and kept.exists():
        return json.loads(kept.read_text())
    command = _find_validator()
    if command is None:
        return []
    errors = _ask(command, dataset)
    if kept:
        write_atomically(kept, json.dumps(errors))
    return errors


def _ask(command: str, dataset: Path) -> list[str]:
    answer = subprocess.run(
        [command, '--json', '--ignoreWarnings', str(dataset)],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        issues = json.loads(answer.stdout)['issues']['issues']
    except (ValueError, KeyError):
        return [f'gave no answer that could be read: {answer.stderr.strip()[-200:]}']
    errors: dict[str, list[str]] = {}
    for issue in issues:
        if issue.get('severity') == 'error':
            errors.setdefault(issue['code'], []).append(issue.get('location', ''))
    texts = [f'{code} in {len(files)} files, first {files[0]}' for code, files in errors.items()]
    more = [f'and {len(texts) - MOST_SHOWN} more kinds'] if len(texts) > MOST_SHOWN else []
    return texts[:MOST_SHOWN] + more


def _find_validator() -> str | None:
    beside_python = Path(sys.executable).with_name('bids-validator-deno')
    return str(beside_python) if beside_python.exists() else shutil.which('bids-validator-deno')
