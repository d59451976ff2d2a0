"""Charts as SVG that takes its colours from the page, for light, dark and print."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from PIL import Image

# Of a normal distribution's middle 95 %.
RANGE_SDS = 1.96
WIDTH, BARS_HEIGHT, ROW = 420, 110, 15
LEFT, RIGHT = 52, 12


def intensity_chart(
    contrast: str, values: np.ndarray, levels: Sequence[float], figures: Mapping[str, Any]
) -> Markup:
    """Draw an input's distribution in the brain above the range of the training's quantiles.

    Parameters
    ----------
    contrast : str
    values : numpy.ndarray
        In the brain, normalised.
    levels : sequence of float
        Which quantiles `figures` holds.
    figures : mapping
        'Found', 'TrainingMean' and 'TrainingSD'.
    """
    found, mean, sd = (np.array(figures[k]) for k in ('Found', 'TrainingMean', 'TrainingSD'))
    low, high = np.maximum(mean - RANGE_SDS * sd, 0), mean + RANGE_SDS * sd
    end = 1.08 * max(found.max(), high.max())
    scale = (WIDTH - LEFT - RIGHT) / end
    height = BARS_HEIGHT + ROW * len(found) + 34
    parts = [_histogram(values, end, scale)]
    for i, (level, here, a, b) in enumerate(zip(levels, found, low, high, strict=True)):
        parts.append(_quantile_row(BARS_HEIGHT + 12 + i * ROW, level, here, a, b, scale))
    parts.append(_axis(end, scale, BARS_HEIGHT + ROW * len(found) + 8))
    outside = int(np.sum((found < low) | (found > high)))
    label = (
        f'{contrast}: distribution in the brain; {outside} of {len(found)} quantiles outside the '
        'range of the training'
    )
    return _svg(WIDTH, height, label, parts)


def count_outside(figures: Mapping[str, Any]) -> int:
    """How many quantiles lie outside the middle 95 % of the training."""
    found, mean, sd = (np.array(figures[k]) for k in ('Found', 'TrainingMean', 'TrainingSD'))
    return int(np.sum(np.abs(found - mean) > RANGE_SDS * sd))


def joint_histogram(acquired: np.ndarray, synthetic: np.ndarray, top: float) -> Markup:
    """Draw how often each pair of values occurs; on the diagonal both images agree.

    Parameters
    ----------
    acquired, synthetic : numpy.ndarray, shape (n,)
        Of the same voxels, in the same units.
    top : float
        Where the axes end.
    """
    side, bins = 300, 100
    counts = np.histogram2d(acquired, synthetic, bins, ((0, top), (0, top)))[0]
    weight = np.log1p(counts) / np.log1p(max(counts.max(), 1))
    pixels = np.zeros((bins, bins, 4), np.uint8)
    pixels[..., :3] = (47, 112, 196)
    pixels[..., 3] = (255 * np.where(counts > 0, 0.12 + 0.88 * weight, 0)).T[::-1]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, 'PNG', optimize=True)
    src = base64.b64encode(buffer.getvalue()).decode()
    parts = [
        f'<image x="{LEFT}" y="8" width="{side}" height="{side}" style="image-rendering:pixelated"'
        f' href="data:image/png;base64,{src}"/>',
        f'<rect class="frame" x="{LEFT}" y="8" width="{side}" height="{side}"/>',
        f'<line class="identity" x1="{LEFT}" y1="{8 + side}" x2="{LEFT + side}" y2="8"/>',
        f'<text x="{LEFT + side / 2}" y="{side + 40}" text-anchor="middle">acquired FLAIR</text>',
        f'<text transform="translate(11 {8 + side / 2}) rotate(-90)" text-anchor="middle">'
        'synthetic FLAIR</text>',
    ]
    for value in _ticks(top):
        at = value / top * side
        text = f'{value:g}'
        parts.append(
            f'<text x="{LEFT + at:.1f}" y="{side + 23}" text-anchor="middle">{text}</text>'
        )
        parts.append(
            f'<text x="{LEFT - 6}" y="{12 + side - at:.1f}" text-anchor="end">{text}</text>'
        )
    label = 'Joint histogram of acquired and synthetic FLAIR in the brain'
    return _svg(LEFT + side + RIGHT, side + 48, label, parts)


def motion_chart(displacements: Sequence[float], limit: float) -> Markup:
    """Draw how far the head lay from its place in each volume.

    Parameters
    ----------
    displacements : sequence of float
        Millimetres.
    limit : float
        Above which their mean is a reason to look.
    """
    width, height = 640, 130
    end = 1.08 * max(*displacements, 1.2 * limit)
    across = (width - LEFT - RIGHT) / max(len(displacements) - 1, 1)
    at = [
        (LEFT + i * across, height - mm / end * (height - 8)) for i, mm in enumerate(displacements)
    ]
    y = height - limit / end * (height - 8)
    parts = [
        '<polyline class="trace" points="' + ' '.join(f'{x:.1f},{y:.1f}' for x, y in at) + '"/>',
        f'<line class="identity" x1="{LEFT}" x2="{width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>',
        f'<path class="frame" d="M{LEFT} 8V{height}H{width - RIGHT}"/>',
        *(
            f'<text x="{LEFT - 6}" y="{height - value / end * (height - 8) + 4:.1f}" '
            f'text-anchor="end">{value:g}</text>'
            for value in _ticks(end)
        ),
        f'<text transform="translate(11 {height / 2}) rotate(-90)" text-anchor="middle">mm</text>',
        f'<text x="{LEFT}" y="{height + 17}">first volume</text>',
        f'<text x="{width - RIGHT}" y="{height + 17}" text-anchor="end">last</text>',
    ]
    label = (
        f'Head motion over {len(displacements)} volumes: at most {max(displacements):.1f} mm; '
        f'a mean above {limit:g} mm is a reason to look'
    )
    return _svg(width, height + 24, label, parts)


def _histogram(values: np.ndarray, end: float, scale: float) -> str:
    counts, edges = np.histogram(values, 120, (0, end))
    tops = BARS_HEIGHT - (BARS_HEIGHT - 6) * counts / max(counts.max(), 1)
    points = [(edges[0], BARS_HEIGHT), *zip((edges[1:] + edges[:-1]) / 2, tops, strict=True)]
    points.append((edges[-1], BARS_HEIGHT))
    path = ' '.join(f'{LEFT + x * scale:.1f},{y:.1f}' for x, y in points)
    return f'<polygon class="curve" points="{path}"/>'


def _quantile_row(
    y: float, level: float, here: float, low: float, high: float, scale: float
) -> str:
    x = LEFT + here * scale
    if low <= here <= high:
        mark = f'<circle class="inside" cx="{x:.1f}" cy="{y}" r="4"/>'
    else:
        mark = f'<path class="outside" d="M{x - 4:.1f} {y - 4}l8 8m0 -8l-8 8"/>'
    return (
        f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{100 * level:.0f} %</text>'
        f'<rect class="range" x="{LEFT + low * scale:.1f}" y="{y - 4}" '
        f'width="{(high - low) * scale:.1f}" height="8" rx="2"/>{mark}'
    )


def _axis(end: float, scale: float, y: float) -> str:
    ticks = ''.join(
        f'<text x="{LEFT + value * scale:.1f}" y="{y + 18}" text-anchor="middle">{value:g}</text>'
        f'<line class="frame" x1="{LEFT + value * scale:.1f}" x2="{LEFT + value * scale:.1f}" '
        f'y1="{y}" y2="{y + 4}"/>'
        for value in _ticks(end)
    )
    return f'<line class="frame" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>{ticks}'


def _ticks(end: float) -> list[float]:
    """About four round numbers from 0 to an end."""
    rough = end / 4
    power = 10.0 ** np.floor(np.log10(rough))
    step = power * min((1, 2, 2.5, 5, 10), key=lambda factor: abs(factor * power - rough))
    return [round(float(value), 10) for value in np.arange(0, end + 1e-9, step)]


def _svg(width: float, height: float, label: str, parts: Sequence[str]) -> Markup:
    return Markup(
        f'<svg class="chart" role="img" aria-label="{escape(label)}" '
        f'viewBox="0 0 {width} {height}" width="{width}" height="{height}">{"".join(parts)}</svg>'
    )
