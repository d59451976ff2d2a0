"""What kind of image a series is, by a table of rules that looks at nothing but header fields."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

KINDS = ('T1w', 'T2w', 'FLAIR', 'dwi', 'epi')
FIELDS = (
    'modality', 'storage', 'manufacturer', 'body_part', 'image_type', 'description',
    'sequence_name', 'contrast', 'acquisition', 'echo', 'epi', 'inversion', 'echo_time',
    'repetition_time', 'inversion_time', 'flip_angle', 'largest_bvalue', 'directions',
    'contrast_agent', 'orientations', 'slices', 'volumes', 'echoes',
)  # fmt: skip


@dataclass(frozen=True)
class Decision:
    """What a series is taken for.

    Attributes
    ----------
    kind : str or None
        One of :data:`KINDS`; None for what is not taken.
    reason : str
        Why, in words that can follow a colon.
    """

    kind: str | None
    reason: str


def recognise(fields: Mapping[str, Any], rules: Iterable[Mapping[str, Any]]) -> Decision:
    """Decide by the first rule that holds.

    Parameters
    ----------
    fields : mapping
        Of a series, under the names in :data:`FIELDS`.
    rules : iterable of mappings
        Each with ``kind``, ``reason`` and ``when``: conditions by field, all of which must hold.
        See :func:`holds`.
    """
    for rule in rules:
        if all(holds(fields.get(name), wanted) for name, wanted in rule['when'].items()):
            return Decision(rule['kind'], rule['reason'])
    return Decision(None, 'no rule knows it')


def holds(value: Any, wanted: Any) -> bool:
    """Whether a field meets a condition; a field that is absent only meets null.

    Parameters
    ----------
    value : str, float, bool or None
    wanted : None, bool, list of two, or str
        null: absent. true, false: just that. [low, high]: a number in the range, limits included,
        null for no limit. Text: a regular expression found anywhere, in any case.
    """
    if value is None or wanted is None:
        return value is wanted
    if isinstance(wanted, bool):
        return value is wanted
    if isinstance(wanted, list):
        low, high = wanted
        return (low is None or value >= low) and (high is None or value <= high)
    return re.search(wanted, str(value), re.IGNORECASE) is not None


def check_rules(content: Any) -> list[dict[str, Any]]:
    """The rules of a user's file, ``{"rules": [{"kind": ..., "reason": ..., "when": {...}}]}``.

    Raises
    ------
    ValueError
        If a rule could never be followed: which, and why.
    """
    if not isinstance(content, dict) or not isinstance(content.get('rules'), list):
        raise ValueError('must hold one JSON object with a list "rules"')
    for number, rule in enumerate(content['rules'], 1):
        if problem := _problem(rule):
            raise ValueError(f'rule {number} {problem}')
    return content['rules']


def _problem(rule: Any) -> str | None:
    if not isinstance(rule, dict) or set(rule) != {'kind', 'reason', 'when'}:
        return 'must hold kind, reason and when, and nothing else'
    if rule['kind'] not in (*KINDS, None):
        return f'has the kind {rule["kind"]!r}; known are {", ".join(KINDS)}, and null for none'
    if not isinstance(rule['reason'], str) or not isinstance(rule['when'], dict):
        return 'needs a text as its reason and an object as its when'
    if unknown := set(rule['when']) - set(FIELDS):
        return f'asks for {", ".join(sorted(unknown))}; known are {", ".join(FIELDS)}'
    wrong = [name for name, wanted in rule['when'].items() if not _is_condition(wanted)]
    return f'has no valid condition for {", ".join(wrong)}' if wrong else None


def _is_condition(wanted: Any) -> bool:
    if isinstance(wanted, list):
        return len(wanted) == 2 and all(
            limit is None or (isinstance(limit, int | float) and not isinstance(limit, bool))
            for limit in wanted
        )
    if isinstance(wanted, str):
        try:
            re.compile(wanted)
        except re.error:
            return False
        return True
    return wanted is None or isinstance(wanted, bool)
