"""The group report: one row per session, what stands out, and the way to each report."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from bids_flair.errors import BidsFlairError
from bids_flair.reports.cohort import outliers, write_cohort_report
from bids_flair.reports.records import Record, write_record


def write_sidecar(folder: Path, label: str, *, unfamiliarity=0.3, ssim=None, warnings=()) -> None:
    """What the participant level says of a session, and no image."""
    sidecar = {
        'SynthesisInputs': ['T1w', 'T2w'],
        'SynthesisModel': {'name': 'default'},
        'OutOfDistributionScore': unfamiliarity,
        'MedianUncertainty': 0.1,
        'IntensityFactors': {},
        'Device': 'cpu',
        'Backend': 'embedded',
        'PackageVersions': {},
        'BrainMask': {'VolumeLitres': 1.4, 'AgreementDice': 0.96},
        'Registrations': [
            {'Contrast': 'T2w', 'Trusted': True, 'Peak': 5.0 + unfamiliarity, 'Overlap': 0.98}
        ],
        'HeadMotion': {'MeanDisplacementMm': 0.4, 'LargestDisplacementMm': 1.1},
        'Warnings': list(warnings),
    }
    if ssim is not None:
        sidecar['ScoresInBrain'] = {'ssim': ssim, 'corr': 0.9, 'psnr_db': 22.0, 'nrmse': 0.1}
    path = folder / f'sub-{label}/anat/sub-{label}_space-T1w_desc-synth_FLAIR.json'
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(sidecar))
    (folder / f'sub-{label}.html').write_text(f'<title>sub-{label}</title>')


@pytest.fixture(scope='module')
def cohort(tmp_path_factory) -> Path:
    """Six ordinary people, one whose inputs are strange, one who failed."""
    folder = tmp_path_factory.mktemp('cohort')
    for number in range(1, 7):
        write_sidecar(folder, f'0{number}', unfamiliarity=0.2 + 0.02 * number, ssim=0.7)
    write_sidecar(folder, '07', unfamiliarity=2.5)
    failure = Record(message='The bvec file is missing.', traceback='Traceback')
    write_record(failure, 'sub-08_ses-b', folder / 'sub-08' / 'log' / '20260101-000000_a')
    write_cohort_report(folder)
    return folder


def rows_of(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / 'group_FLAIR.tsv').open() as file:
        return {row['participant_id']: row for row in csv.DictReader(file, delimiter='\t')}


def test_the_table_holds_every_session_and_figure(cohort):
    rows = rows_of(cohort)
    assert list(rows) == [f'sub-0{number}' for number in range(1, 9)]
    assert rows['sub-01'] == {
        'participant_id': 'sub-01', 'session_id': 'n/a', 'verdict': 'ok', 'inputs': 'T1w + T2w',
        'unfamiliarity': '0.22', 'uncertainty': '0.1', 'brain_volume_l': '1.4',
        'mask_dice': '0.96', 'dwi_motion_mm': '0.4',
        'ssim': '0.7', 'corr': '0.9', 'psnr_db': '22', 'nrmse': '0.1',
        't2w_peak': '5.22', 't2w_overlap': '0.98',
    }  # fmt: skip
    assert (rows['sub-07']['verdict'], rows['sub-07']['ssim']) == ('distrust', 'n/a')
    assert (rows['sub-08']['verdict'], rows['sub-08']['session_id']) == ('failed', 'ses-b')


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(BidsFlairError, match='run the participant level first'):
        write_cohort_report(tmp_path)


def test_a_later_success_outweighs_a_failure(tmp_path):
    write_sidecar(tmp_path, '01')
    log = tmp_path / 'sub-01' / 'log'
    write_record(Record(message='It failed.'), 'sub-01', log / '20260101-000000_a')
    write_cohort_report(tmp_path)
    assert rows_of(tmp_path)['sub-01']['verdict'] == 'failed'
    write_record(Record(timings=(('scoring', 1.0),)), 'sub-01', log / '20260102-000000_b')
    write_cohort_report(tmp_path)
    assert rows_of(tmp_path)['sub-01']['verdict'] == 'ok'


def test_outliers_need_a_crowd_to_lie_out_of():
    crowd = [1.0, 1.1, 1.2, 1.3, np.nan, 9.0]
    assert outliers(crowd).tolist() == [False] * 5 + [True]
    assert not outliers([1.0, 1.0, np.nan, 9.0]).any()


def test_text_from_outside_is_escaped(tmp_path):
    write_sidecar(tmp_path, '01')
    evil = Record(message='<img src=x onerror="alert(1)">')
    write_record(evil, 'sub-02', tmp_path / 'sub-02' / 'log' / '20260101-000000_a')
    assert '<img' not in write_cohort_report(tmp_path).read_text()


def test_models_of_ones_own_are_ranked(tmp_path):
    write_sidecar(tmp_path, '01')
    for name, ssim in (('worse', 0.5), ('better', 0.6)):
        folder = tmp_path / 'models' / name
        folder.mkdir(parents=True)
        card = {
            'target': 'FLAIR', 'inputs': ['T1w'], 'scored_on': 'held out',
            'scores': [{'inputs': {'T1w': {'ssim': ssim}}}],
        }  # fmt: skip
        (folder / 'model.json').write_text(json.dumps(card))
    html = write_cohort_report(tmp_path).read_text()
    assert html.index('href="group_better.html"') < html.index('href="group_worse.html"')


def test_in_a_browser_the_table_sorts_and_an_outlier_opens_its_report(browser, cohort):
    browser.let_scripts_run(True)
    browser.complaints(), browser.requests()
    browser.open(cohort / 'group_FLAIR.html')
    order = 'return [...document.querySelectorAll("tbody th")].map((e) => e.textContent)'
    first = browser.run(order)
    sort = 'document.querySelectorAll("th button")[3].click()'
    browser.run(sort)
    assert browser.run(order)[-2:] == ['sub-07', 'sub-08_ses-b']
    browser.run(sort)
    assert browser.run(order)[0] == 'sub-07'
    assert browser.run(order)[-1] == 'sub-08_ses-b'  # without figures: last, whichever way
    assert sorted(browser.run(order)) == sorted(first)
    assert browser.screenshot().std() > 10
    assert browser.complaints() == []
    assert browser.requests() == [(cohort / 'group_FLAIR.html').as_uri()]
    browser.click_at('.far', 0.5, 0.5)
    browser.wait("document.title === 'sub-07'")


def test_a_box_spans_the_middle_half_of_the_sessions(cohort):
    plots = (cohort / 'group_FLAIR.html').read_text().split('<figure>')
    familiar, motion = (
        next(plot for plot in plots if f'<strong>{label}</strong>' in plot)
        for label in ('Unfamiliarity', 'Head motion (mm)')
    )
    found = [float(x) for x in re.findall(r'<circle class="near" cx="([\d.]+)"', familiar)]
    found += [float(x) for x in re.findall(r'<path class="far" d="M([\d.]+) ', familiar)]
    left, width = re.search(
        r'class="half" x="([\d.]+)" y="14" width="([\d.]+)"', familiar
    ).groups()
    quartiles = np.percentile(found, [25, 75])
    np.testing.assert_allclose([float(left), float(left) + float(width)], quartiles, atol=0.2)
    assert 'class="half"' in motion
