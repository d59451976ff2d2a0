"""Networks that are heard together: which of them depends on the scanner.

A network that was trained on one scanner is better there than one that was trained on many, and
useless elsewhere; one that saw real scanners of few kinds is led astray by others, and gains from
the word of one that saw simulated scanners of every kind. What tells whether a person is at home
with a specialist is how the contrasts relate: how bright the T1w is where the T2w has a certain
value depends on the two protocols, and hardly on how much fluid or how many lesions a brain holds.
Where another scanner looks alike by chance, a specialist may be far off, and then no longer agrees
with the general network as it does at home. From one contrast there is, beside that agreement, how
often it has each of its values, which a brain's fluid changes, too, but less than a scanner does.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from torch import nn

from bids_flair.models.blocks import predict_blocks, tiles
from bids_flair.models.network import CENTRES, SPREADS
from bids_flair.models.normalisation import CONTRASTS, Normalised
from bids_flair.models.regressor import CPU, Regressor, Shape, Voice

# Values of one contrast are told apart in steps of half a spread around its centre.
EDGES = np.arange(-2, 2.01, 0.5)
# Share of the voxels that a step needs before the other contrast's median there is trusted.
ENOUGH = 0.005
# Distances, in spreads, up to which a person is at home, and from which on a stranger.
AT_HOME, STRANGER = 0.11, 0.15
# By how much a specialist's correlation with the general network may fall short of what it is on
# those whom the specialist was trained on, and from which shortfall on it is not heard.
AGREES, DISAGREES = 0.06, 0.12
# The same where there is one contrast; and the share of a brain that would have to change its
# value, up to which a person is at home, and from which on a stranger.
AGREES_ALONE, DISAGREES_ALONE = 0.03, 0.06
ALIKE, UNLIKE = 0.17, 0.22
# Blocks of a brain in which the two are compared, at most, and their edge in voxels.
SAMPLED, BLOCK = 32, 16
# What a specialist's word counts for at home, less from one contrast, which tells a scanner less
# surely; and that of the network for foreign scanners where nobody is. The rest is the general
# network's.
SHARE, SHARE_ALONE, SHARE_ABROAD = 0.9, 0.7, 0.7
# Every so many voxels of a brain are looked at.
STRIDE = 7


class Committee(nn.Module):
    """A general network, and others for scanners that are well known, or not known at all.

    Parameters
    ----------
    generalist : Regressor
    specialists : sequence of Regressor
        Each knows one scanner; their inputs are among the generalist's. One that takes a single
        contrast is heard where there is no other.
    abroad : sequence of Regressor
        One of them is heard where no specialist is at home: the one that takes fewest inputs,
        but one that takes a single contrast only where there is no other.
    """

    def __init__(
        self,
        generalist: Regressor,
        specialists: Sequence[Regressor] = (),
        abroad: Sequence[Regressor] = (),
    ):
        super().__init__()
        self.generalist = generalist
        self.abroad = nn.ModuleList(abroad)
        self.specialists = nn.ModuleList(specialists)
        for i, specialist in enumerate(specialists):
            count = len(specialist.architecture.inputs)
            home = torch.full((2, count, count, len(EDGES) + 1), torch.nan)
            self.register_buffer(f'home_{i}', home)
        self.register_buffer('accords', torch.full((len(specialists),), torch.nan))

    @property
    def architecture(self) -> Shape:
        """The generalist's."""
        return self.generalist.architecture

    def joined_by(
        self, specialist: Regressor, home: np.ndarray, accord: float = np.nan
    ) -> 'Committee':
        """The committee with one specialist more, whose scanner's `relations` are ``home``.

        ``accord`` is its `accord_of` with the general network there; NaN: nobody asks for it.
        """
        joined = Committee(self.generalist, [*self.specialists, specialist], self.abroad)
        for i in range(len(self.specialists)):
            getattr(joined, f'home_{i}').copy_(getattr(self, f'home_{i}'))
        getattr(joined, f'home_{len(self.specialists)}').copy_(torch.from_numpy(home))
        joined.accords.copy_(torch.tensor([*self.accords, accord]))
        return joined

    def voices(
        self, images: Normalised, mask: np.ndarray, device: torch.device = CPU
    ) -> list[Voice]:
        """As :meth:`Predictor.voices`."""
        voices, known = [], np.zeros(mask.shape)
        for specialist, trust in self._at_home(images, mask, device):
            share = SHARE_ALONE if _takes_one(specialist) else SHARE
            voices.append(Voice(specialist, share * trust, 'specialist'))
            known += trust
        abroad = self._abroad(images)
        if abroad is not None and (known[mask] < 1).any():
            voices.append(Voice(abroad, SHARE_ABROAD * (1 - known), 'abroad'))
        rest = 1 - sum(voice.weight for voice in voices)
        return [*voices, Voice(self.generalist, rest, 'generalist')]

    def _abroad(self, images: Normalised) -> Regressor | None:
        """Who is heard abroad."""
        names = self.architecture.inputs
        there = images.pick(names).presence.any((1, 2, 3))
        at_hand = {name for name, present in zip(names, there, strict=True) if present}
        suited = [
            one
            for one in self.abroad
            if at_hand & (takes := set(one.architecture.inputs))
            and (len(takes) > 1 or takes == at_hand)
        ]
        return min(suited, key=lambda one: len(one.architecture.inputs), default=None)

    def _at_home(
        self, images: Normalised, mask: np.ndarray, device: torch.device
    ) -> list[tuple[Regressor, np.ndarray]]:
        """Specialists, and how far to trust each in every voxel: together as far as the most
        trusted of them alone, so that several for one scanner count as one.

        Networks have one half of it and trees the other, however many they are: those of a kind
        err alike. The more contrasts there are that a specialist never sees, the less it is
        trusted.
        """
        found = []

        @cache
        def general(names: tuple[str, ...]) -> np.ndarray:
            return _sampled(self.generalist, names, images, mask, device)

        def agreement(specialist: Regressor) -> float:
            names = specialist.architecture.inputs
            return _accord(_sampled(specialist, names, images, mask, device), general(names))

        at_hand = images.pick(self.architecture.inputs).presence.any((1, 2, 3)).sum()
        for i, specialist in enumerate(self.specialists):
            inputs = images.pick(specialist.architecture.inputs).presence
            # One contrast tells a scanner less surely than two do: it is for want of others.
            if not inputs.any((1, 2, 3)).all() or (at_hand > 1 and _takes_one(specialist)):
                continue
            trust = self._familiar(i, images, mask, agreement) * len(inputs) / at_hand
            if trust and inputs.all(0).any():
                found.append((specialist, trust * inputs.all(0)))
        if not found:
            return []
        kinds = Counter(type(specialist) for specialist, _ in found)
        parts = [trust / kinds[type(specialist)] for specialist, trust in found]
        shrink = max(trust.max() for _, trust in found) / sum(part.max() for part in parts)
        return [(one, part * shrink) for (one, _), part in zip(found, parts, strict=True)]

    def _familiar(
        self,
        i: int,
        images: Normalised,
        mask: np.ndarray,
        agreement: Callable[[Regressor], float],
    ) -> float:
        """How sure it is, from 0 to 1, that a person is from a specialist's scanner.

        ``agreement`` is a specialist's `accord_of` with the general network here.
        """
        specialist, names = self.specialists[i], self.specialists[i].architecture.inputs
        home = getattr(self, f'home_{i}').double().cpu().numpy()
        here = relations_of(images.pick(names), mask, names)
        if _takes_one(specialist):
            trust = _fading(unlikeness(here, home), ALIKE, UNLIKE)
            limits = (AGREES_ALONE, DISAGREES_ALONE)
        else:
            trust = _fading(distance(here, home), AT_HOME, STRANGER)
            limits = (AGREES, DISAGREES)
        if trust and torch.isfinite(self.accords[i]):
            trust *= _fading(float(self.accords[i]) - agreement(specialist), *limits)
        return trust


def _takes_one(network: Regressor) -> bool:
    """Whether a network sees a single contrast."""
    return len(network.architecture.inputs) == 1


def _fading(value: float, full: float, none: float) -> float:
    """1 up to ``full``, 0 from ``none`` on."""
    return float(np.clip((none - value) / (none - full), 0, 1))


def accord_of(
    specialist: Regressor,
    generalist: Regressor,
    images: Normalised,
    mask: np.ndarray,
    device: torch.device = CPU,
) -> float:
    """Correlation of what two networks say from the inputs of the specialist, where it has all.

    Measured in blocks from all over the brain; 0 where one of them says the same everywhere.
    """
    names = specialist.architecture.inputs
    ours, theirs = (
        _sampled(network, names, images, mask, device) for network in (specialist, generalist)
    )
    return _accord(ours, theirs)


def _accord(ours: np.ndarray, theirs: np.ndarray) -> float:
    with np.errstate(invalid='ignore'):
        return float(np.nan_to_num(np.corrcoef(ours, theirs)[0, 1]))


def _sampled(
    network: Regressor,
    names: Sequence[str],
    images: Normalised,
    mask: np.ndarray,
    device: torch.device,
) -> np.ndarray:
    """What a network says from some contrasts alone, in voxels that have all of them."""
    seen = np.isin(CONTRASTS, names)[:, None, None, None]
    images = replace(images, values=images.values * seen, presence=images.presence & seen)
    there = mask & images.pick(names).presence.all(0)
    corners = list(tiles(there, BLOCK))
    corners = [corners[i] for i in np.unique(np.linspace(0, len(corners) - 1, SAMPLED, dtype=int))]
    blocks = np.zeros_like(mask)
    for corner in corners:
        block = tuple(slice(c, c + BLOCK) for c in corner)
        blocks[block] = there[block]
    asked = np.zeros_like(mask)
    asked.flat[np.flatnonzero(blocks)[::STRIDE]] = True
    return predict_blocks(network, images, mask, device, corners, BLOCK, asked)[0][asked]


def relations_of(inputs: Normalised, mask: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """`relations` of a person's images, which are those of ``names``."""
    values, presence = inputs.values[:, mask], inputs.presence[:, mask]
    return relations(np.where(presence, values, np.nan)[:, ::STRIDE], names)


def relations(values: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Median of each contrast where another has a certain value, and how often it has.

    Parameters
    ----------
    values : ndarray, shape (C, n)
        Voxels of a brain, normalised; NaN where a contrast is absent.
    names : sequence of str
        The C contrasts.

    Returns
    -------
    ndarray, shape (2, C, C, steps)
        The median in spreads of the first contrast, in steps (see `EDGES`) of the second; and the
        share of the voxels in that step. NaN where few are. Of a contrast with itself: no median,
        and the share of every step.
    """
    found = np.full((2, len(names), len(names), len(EDGES) + 1), np.nan)
    for j, given in enumerate(names):
        step = np.digitize(values[j], CENTRES[given] + SPREADS[given] * EDGES)
        for i, asked in enumerate(names):
            both = np.isfinite(values[i]) & np.isfinite(values[j])
            if not both.any():
                continue
            value, where = values[i][both], step[both]
            count = np.bincount(where, minlength=len(EDGES) + 1)
            if i == j:
                found[1, i, i] = count / len(where)
                continue
            for k in np.flatnonzero(count > max(ENOUGH * both.sum(), 1)):
                median = np.median(value[where == k]) / SPREADS[asked]
                found[:, i, j, k] = median, count[k] / len(where)
    return found


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mean difference of two `relations`, each step counting as often as both brains have it.

    Infinite where they have nothing in common.
    """
    known = np.isfinite(a[0]) & np.isfinite(b[0])
    if not known.any():
        return np.inf
    return float(np.average(np.abs(a[0] - b[0])[known], weights=np.minimum(a[1], b[1])[known]))


def unlikeness(a: np.ndarray, b: np.ndarray) -> float:
    """Share of a brain that would have to change its value for two `relations` of one contrast to
    be the same (total variation distance). Infinite where one of them has no values.
    """
    apart = np.abs(a[1, 0, 0] - b[1, 0, 0]).sum() / 2
    return float(apart) if np.isfinite(apart) else np.inf
