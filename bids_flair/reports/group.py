"""One HTML file for a model of one's own: how it was trained, how good it is, what it makes."""

import base64
import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from bids_flair.bids.files import write_atomically
from bids_flair.models.files import replace_file
from bids_flair.models.normalisation import CONTRASTS
from bids_flair.scoring import best_scale
from bids_flair.training.build_a_flair import brain_of
from bids_flair.training.cohort_model import Trained
from bids_flair.training.corpus import Person

COLUMNS = {
    'ssim': 'SSIM',
    'corr': 'correlation',
    'psnr_db': 'PSNR, dB',
    'nrmse': 'NRMSE',
    'lesion_auc_pred': 'lesion AUC',
    'lesion_auc_true': 'lesion AUC of the acquired',
}
# Of a training's curve, which is noisy from epoch to epoch; and what tells ten of them apart.
CURVE_POINTS = 50
DASHES = ('-', '--', ':', '-.')
# Axial slices, as shares of the brain's height.
LEVELS = (0.3, 0.42, 0.54, 0.66, 0.78)


@dataclass(frozen=True)
class Picture:
    """A PNG inside an HTML file."""

    src: str
    alt: str
    width: int
    height: int


def write_group_report(
    name: str, folder: Path, trained: Mapping[str, Trained], pictures: Mapping[str, np.ndarray]
) -> Path:
    """Write ``group_NAME.html`` beside the participants' reports, and the figures it shows.

    Parameters
    ----------
    name : str
        Of the model, or of the comparison.
    folder : Path
        OUTPUT_DIR/models/NAME.
    trained : mapping of str to Trained
        One model, or one per set of inputs.
    pictures : mapping of str to ndarray, shape (3, X, Y, Z)
        Per person scored: acquired, synthetic and the difference, by the best model.

    Returns
    -------
    Path
        The report.
    """
    best_name, best = max(trained.items(), key=lambda item: mean_score(item[1], 'ssim'))
    card, figures = best.model.card, folder / 'figures'
    figures.mkdir(parents=True, exist_ok=True)
    ranking = _ranking(trained) if len(trained) > 1 else []
    people = [
        {'name': person, 'picture': _slices(figures / f'{person}.png', person, volumes)}
        for person, volumes in pictures.items()
    ]
    held_out = card['scored_on'] == 'held out' and bool(best.scores)
    html = (
        _environment()
        .get_template('group.html')
        .render(
            name=name,
            target=card['target'],
            inputs=' + '.join(card['inputs']),
            path=folder if best_name == name else folder / best_name,
            held_out=held_out,
            verdict=_verdict(best, held_out),
            facts=_facts(best),
            ranking=ranking,
            ranking_columns=['inputs', 'SSIM', 'correlation', 'participants'],
            ranking_figure=_bars(figures / 'ranking.png', ranking) if ranking else None,
            curves=_curves(figures / 'curves.png', trained),
            scores=_score_rows(trained),
            score_columns=['model, participant, inputs', *COLUMNS.values()],
            people=people,
        )
    )
    report = folder.parents[1] / f'group_{name}.html'
    write_atomically(report, html)
    if ranking:
        write_atomically(
            folder / 'comparison.tsv',
            '\n'.join('\t'.join(row) for row in [['inputs', 'ssim', 'corr', 'n'], *ranking])
            + '\n',
        )
    return report


def compare(person: Person, synthetic: np.ndarray, target: str) -> np.ndarray:
    """Acquired, synthetic (brought to its scale) and their difference: (3, X, Y, Z)."""
    cut = person.whole()
    brain = brain_of(cut, target)
    acquired = cut.values[CONTRASTS.index(target)] * brain
    scaled = synthetic * best_scale(synthetic[brain], acquired[brain])
    return np.stack([acquired, scaled, scaled - acquired]).astype(np.float32)


def mean_score(trained: Trained, figure: str) -> float:
    """Mean over the people scored; -inf where nobody was."""
    found = [f[figure] for entry in trained.scores for f in entry['inputs'].values()]
    return float(np.mean(found)) if found else -np.inf


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _verdict(trained: Trained, held_out: bool) -> str:
    if held_out:
        return (
            f'In participants whom it was not trained on, its images have a mean SSIM of '
            f'{mean_score(trained, "ssim"):.3f} with the acquired ones, in the brain.'
        )
    if trained.scores:
        return (
            f'Nobody was held out. On the validation participant the mean SSIM is '
            f'{mean_score(trained, "ssim"):.3f}, in the brain; hold participants out for a fair '
            'figure.'
        )
    return 'Nobody was held out or validated on: how good this model is, nobody knows.'


def _facts(trained: Trained) -> dict[str, str]:
    card = trained.model.card
    plan, data = card['configuration'], card['training_data']
    facts = {
        'Recipe': plan['recipe'] + (f', from {plan["start"]}' if plan['start'] else ''),
        'Trained on': ', '.join(data['people']),
        'Validated on': ', '.join(data['validation']) or 'nobody',
        'Epochs': f'{card["epochs_done"]} of {plan["epochs"]}',
        'Learning rate': f'{plan["learning_rate"]:g}',
        'Batch': str(plan['batch']),
        'Seed': str(plan['seed']),
    }
    if plan['recipe'] == 'build-a-flair':
        facts['Deviations from the paper'] = ', '.join(card['deviations']) or 'none'
    return facts


def _ranking(trained: Mapping[str, Trained]) -> list[list[str]]:
    order = sorted(trained, key=lambda name: -mean_score(trained[name], 'ssim'))
    return [
        [
            name,
            f'{mean_score(trained[name], "ssim"):.4f}',
            f'{mean_score(trained[name], "corr"):.4f}',
            str(len(trained[name].scores)),
        ]
        for name in order
    ]


def _score_rows(trained: Mapping[str, Trained]) -> list[list[str]]:
    rows = []
    for name, one in trained.items():
        for entry in one.scores:
            for inputs, figures in entry['inputs'].items():
                cells = [f'{figures[k]:.3f}' if k in figures else 'n/a' for k in COLUMNS]
                rows.append([f'{name}, {entry["person"]}, {inputs}', *cells])
    return rows


def _curves(file: Path, trained: Mapping[str, Trained]) -> Picture:
    figure = Figure(figsize=(8, 3.2), layout='constrained')
    axes = figure.add_subplot()
    only = len(trained) == 1
    dashes = itertools.cycle(DASHES)
    for name, one in trained.items():
        networks = sorted({line.network for line in one.history})
        for network in networks:
            lines = [line for line in one.history if line.network == network]
            history = np.array([(line.epoch, line.loss, line.validation) for line in lines])
            epochs, loss, validation = _thinned(history, CURVE_POINTS).T
            which = f', network {network}' if len(networks) > 1 else ''
            if only:
                axes.plot(epochs, loss, '.-', label=f'training loss{which}')
            if np.isfinite(validation).any():
                label = f'validation error{which}' if only else name
                axes.plot(epochs, validation, linestyle=next(dashes), label=label)
    what = 'error' if only else 'validation error'
    axes.set(xlabel='epoch', ylabel=what, yscale='log')
    figure.legend(loc='outside right upper', fontsize='small', frameon=False)
    return _save_figure(figure, file, 'Loss and validation error by epoch')


def _thinned(rows: np.ndarray, most: int) -> np.ndarray:
    """Means of neighbouring rows, so that so many are left at most."""
    parts = np.array_split(rows, min(most, len(rows)))
    return np.array([part.mean(0) for part in parts]).reshape(-1, rows.shape[-1])


def _bars(file: Path, ranking: Sequence[Sequence[str]]) -> Picture:
    figure = Figure(figsize=(8, 0.35 * len(ranking) + 0.8), layout='constrained')
    axes = figure.add_subplot()
    names, values = [row[0] for row in ranking], [float(row[1]) for row in ranking]
    bars = axes.barh(names[::-1], values[::-1], color='#4477aa')
    axes.bar_label(bars, fmt='%.3f', padding=3)
    axes.set(xlabel='SSIM in the brain', xlim=(0, 1))
    return _save_figure(figure, file, 'SSIM by set of inputs, best on top')


def _slices(file: Path, person: str, volumes: np.ndarray) -> Picture:
    """Rows of axial slices; columns acquired, synthetic, difference."""
    acquired = volumes[0]
    top = float(np.percentile(acquired[acquired > 0], 99.5))
    filled = np.flatnonzero(acquired.any((0, 1)))
    levels = [int(filled[0] + share * np.ptp(filled)) for share in LEVELS]
    figure = Figure(figsize=(9, 3 * len(levels)), layout='constrained', facecolor='black')
    axes = figure.subplots(len(levels), 3)
    for row, z in zip(axes, levels, strict=True):
        for cell, volume, low, high in zip(
            row, volumes, (0, 0, -top / 2), (top, top, top / 2), strict=True
        ):
            cell.imshow(np.rot90(volume[:, :, z]), cmap='gray', vmin=low, vmax=high)
            cell.set_axis_off()
    return _save_figure(figure, file, f'{person}: acquired, synthetic and difference')


def _save_figure(figure: Figure, file: Path, alt: str) -> Picture:
    content = io.BytesIO()
    figure.savefig(content, format='png', dpi=100)
    replace_file(file, content.getvalue())
    width, height = (int(100 * inches) for inches in figure.get_size_inches())
    encoded = base64.b64encode(content.getvalue()).decode()
    return Picture(f'data:image/png;base64,{encoded}', alt, width, height)
