"""Which images of other pipelines take the place of raw ones and of our own steps."""

from dataclasses import dataclass, replace
from pathlib import Path

from bids_flair.bids.acquisition import Acquisition
from bids_flair.bids.derivatives import Offer, Prepared
from bids_flair.bids.session import SessionInputs

MAPS = ('MD', 'FA', 'S0')


def reuse(session: SessionInputs, offer: Offer, *, shared: bool) -> SessionInputs:
    """Replace what is raw, in one session, by what other pipelines prepared of it.

    Parameters
    ----------
    session : SessionInputs
        As the raw dataset has it; without images where there is no raw dataset.
    offer : Offer
        What was prepared of the participant.
    shared : bool
        Whether what was prepared of all sessions together may stand for this one.

    Returns
    -------
    SessionInputs
        The T1w and what lies on it are taken before what lies in a turned space, so that the
        reference stays the T1w as acquired where it can.
    """
    choice = _Choice(session, offer, shared)
    session = _with_reference(session, choice)
    choice = replace(choice, session=session)
    session = _with_contrasts(session, choice)
    return _with_diffusion(session, choice)


@dataclass(frozen=True)
class _Choice:
    """Picks among what is offered to a session."""

    session: SessionInputs
    offer: Offer
    shared: bool

    def candidates(self, image: str, *, shared: bool | None = None) -> list[Prepared]:
        shared = self.shared if shared is None else shared
        return self.offer.of(image, self.session.session, shared=shared)

    def in_space(self, image: str, space: str, *, shared: bool | None = None) -> Prepared | None:
        found = self.candidates(image, shared=shared)
        return next((one for one in found if one.space == space), None)

    def position(self, space: str) -> Path | None:
        """Where the other pipeline put images of `space`, if that is not the reference's own."""
        if self.session.reference_space != 'T1w' or space == 'T1w':
            return None
        return self.offer.position(space, self.session.session)


def _with_reference(session: SessionInputs, choice: _Choice) -> SessionInputs:
    t1w = choice.in_space('T1w', 'T1w')
    if t1w is None and session.reference != 'T1w':
        t1w = next(iter(choice.candidates('T1w')), None)
    if t1w is not None:
        session = _taken(session, t1w)
    mask = choice.in_space('mask', session.reference_space) if session.reference else None
    if mask is not None:
        session = _taken(session, mask)
    averages = choice.candidates('T1w', shared=True) if t1w is None and not choice.shared else []
    notes = [
        f'{one.path}: of all sessions together, {session.label} has its own T1w'
        for one in averages
        if one.space == 'T1w'
    ]
    return replace(session, passed_over=(*session.passed_over, *notes))


def _with_contrasts(session: SessionInputs, choice: _Choice) -> SessionInputs:
    """T2w and FLAIR: in place before raw, raw before those that have yet to be placed."""
    for contrast in ('T2w', 'FLAIR'):
        found = choice.in_space(contrast, session.reference_space)
        if found is None and contrast not in session.images:
            found = next(iter(choice.candidates(contrast)), None)
        if found is not None:
            session = _taken(session, found, choice.position(found.space))
    return session


def _with_diffusion(session: SessionInputs, choice: _Choice) -> SessionInputs:
    """Maps of one space, with a mean b=0 for want of S0; a series where there is no MD."""
    spaces = dict.fromkeys(
        one.space for image in (*MAPS, 'dwi') for one in choice.candidates(image)
    )
    found = {space: _maps_in(space, choice) for space in spaces}
    series = {space: choice.in_space('dwi', space) for space in spaces}
    with_md = [space for space in spaces if 'MD' in found[space]]
    if with_md:
        space = max(with_md, key=lambda name: (len(found[name]), series[name] is not None))
        session = _without(session, 'dwi')
        for one in found[space].values():
            session = _taken(session, one)
        if 'S0' not in found[space] and series[space] is not None:
            session = _taken_series(session, series[space])
        guide = _guide(found[space], session, choice, space)
        positions = {**session.positions, **_position(choice, space)}
        return replace(session, guide=guide, positions=positions)
    placed = sorted(
        filter(None, series.values()), key=lambda one: one.space != session.reference_space
    )
    if placed:
        session = _taken_series(session, placed[0])
        positions = {**session.positions, **_position(choice, placed[0].space)}
        session = replace(session, positions=positions)
    return session


def _maps_in(space: str, choice: _Choice) -> dict[str, Prepared]:
    found = {image: choice.in_space(image, space) for image in MAPS}
    return {image: one for image, one in found.items() if one is not None}


def _guide(
    maps: dict[str, Prepared], session: SessionInputs, choice: _Choice, space: str
) -> Prepared | None:
    """What best shows where the maps lie; None: the mean b=0 of the series beside them."""
    if 'S0' in maps:
        return maps['S0']
    if 'dwi' in session.images:
        return None
    # What lies in that space may show all sessions together: it is no input, it only shows where.
    anatomy = (choice.in_space(image, space, shared=True) for image in ('T1w', 'T2w'))
    return next((one for one in anatomy if one is not None), maps['MD'])


def _position(choice: _Choice, space: str) -> dict[str, Path]:
    found = choice.position(space)
    return {'dwi': found} if found else {}


def _taken(session: SessionInputs, found: Prepared, position: Path | None = None) -> SessionInputs:
    prepared = {**session.prepared, found.image: found}
    images = dict(session.images)
    if found.image in ('T1w', 'T2w', 'FLAIR', 'dwi'):
        images[found.image] = found.path
    positions = dict(session.positions)
    if position is not None:
        positions[found.image] = position
    return replace(session, images=images, prepared=prepared, positions=positions)


def _taken_series(session: SessionInputs, found: Prepared) -> SessionInputs:
    stem = found.path.name.removesuffix('.gz').removesuffix('.nii')
    bval, bvec = (found.path.with_name(f'{stem}.{kind}') for kind in ('bval', 'bvec'))
    return replace(
        _taken(session, found),
        bval=bval if bval.exists() else None,
        bvec=bvec if bvec.exists() else None,
        # What distorted the series has been undone.
        acquisition=Acquisition(),
    )


def _without(session: SessionInputs, contrast: str) -> SessionInputs:
    images = {name: path for name, path in session.images.items() if name != contrast}
    return replace(session, images=images, bval=None, bvec=None, acquisition=Acquisition())
