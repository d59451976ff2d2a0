"""The participant report: one file that says first what a person has to know."""

import base64
import io
from dataclasses import replace
from html.parser import HTMLParser

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from bids_flair.reports import participant as reports
from bids_flair.reports.checks import check_session, judge
from bids_flair.reports.content import FailedSession, RegistrationView
from bids_flair.reports.participant import write_report

SHAPES = {'line', 'polyline', 'rect', 'circle', 'path', 'image', 'polygon'}
# A label belongs to one of them; the official validator refuses a second.
LABELLED = {'button', 'input', 'meter', 'output', 'progress', 'select', 'textarea'}
VOID = {'meta', 'img', 'input', 'br', 'hr', 'link', *SHAPES}


class Page(HTMLParser):
    """What a test asks about a page; refuses tags out of order, labels of two things."""

    def __init__(self, html: str):
        super().__init__()
        self.open, self.tags, self.text, self.scripts, self.labelled = [], [], '', 0, 0
        self.feed(html)
        self.close()
        assert not self.open, f'never closed: {self.open}'

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.scripts += tag == 'script' and 'type' not in dict(attrs)
        self.labelled += tag in LABELLED and 'label' in self.open
        assert self.labelled <= 1
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in SHAPES
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.labelled *= tag != 'label'
        self.text += ' '

    def handle_data(self, data):
        if not {'style', 'script'} & set(self.open):
            self.text += data

    def all(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def words(self) -> str:
        return ' '.join(self.text.split())


FAILED = FailedSession('01', 'b', 'The bvec file is missing.', 'Traceback:\n  InputError')


@pytest.fixture
def write(tmp_path):
    """Write a report and read it back."""

    def write_and_read(*sessions, methods='Images were processed.') -> Page:
        path = write_report('01', sessions, methods, tmp_path / 'sub-01.html')
        return Page(path.read_text(encoding='utf-8'))

    return write_and_read


def decode(src: str) -> np.ndarray:
    image = Image.open(io.BytesIO(base64.b64decode(src.partition('base64,')[2])))
    return np.asarray(image.convert('RGBA'))[..., :3]


def test_the_report_is_one_file_that_asks_for_nothing(tmp_path, session):
    path = write_report('01', [session], 'See https://bids.example.', tmp_path / 'sub-01.html')
    assert [file.name for file in tmp_path.iterdir()] == ['sub-01.html']
    page = Page(path.read_text(encoding='utf-8'))
    addresses = [attrs[key] for _, attrs in page.tags for key in ('src', 'href') if key in attrs]
    assert all(address.startswith(('data:image/', '#')) for address in addresses)
    assert not {'link', 'iframe', 'object'} & {tag for tag, _ in page.tags}
    assert not any('src' in attrs for attrs in page.all('script'))
    policies = [attrs['content'] for attrs in page.all('meta') if 'http-equiv' in attrs]
    assert "default-src 'none'" in policies[0]
    assert 'url(' not in path.read_text(encoding='utf-8')


def test_links_lead_to_unique_places(write, session):
    page = write(session, FAILED)
    ids = [attrs['id'] for _, attrs in page.tags if 'id' in attrs]
    targets = [attrs['href'].removeprefix('#') for attrs in page.all('a')]
    targets += [attrs['for'] for attrs in page.all('label') if 'for' in attrs]
    assert len(ids) == len(set(ids))
    assert set(targets) <= set(ids)


def test_pictures_are_not_blank_and_have_alternative_text(write, session):
    pictures = write(session).all('img')
    # glance, mask, 2 registrations of 3 layers, 3 maps, 3 planes of 3 rows, uncertainty; 4 bars
    assert len(pictures) == 4 + 1 + 6 + 3 + 9 + 1 + 4
    for attrs in pictures:
        pixels = decode(attrs['src'])
        assert pixels.std() > 3, attrs['alt']
        assert (pixels.shape[1], pixels.shape[0]) == (int(attrs['width']), int(attrs['height']))
    assert len({attrs['alt'] for attrs in pictures}) > 15
    assert all(attrs['alt'] for attrs in pictures)


def test_verdict_and_warnings_come_before_any_picture(tmp_path, session):
    path = write_report('01', [session], '', tmp_path / 'sub-01.html')
    html = path.read_text(encoding='utf-8')
    first_picture = html.index('<img')
    for text in ('Check before use', session.warnings[0], 'The FLAIR is tilted.'):
        assert html.index(text) < first_picture


@pytest.mark.parametrize(
    ('kinds', 'level', 'advice'),
    [
        (['clean'], 'ok', 'The pictures still need eyes'),
        (['alone'], 'ok', 'no acquired FLAIR to compare with'),
        (['warned'], 'warnings', 'Look first at: Registration of FLAIR'),
        (['unlike'], 'warnings', 'Agreement with the acquired FLAIR'),
        (['restless'], 'warnings', 'Look first at: Head motion in the diffusion series'),
        (['warned', 'strange'], 'distrust', 'unfamiliarity 2.15'),
        (['strange', 'failed'], 'failed', 'for 1 of 2 sessions'),
        (['failed'], 'failed', 'There is none.'),
        ([], 'failed', 'No session'),
    ],
)
def test_the_verdict_is_the_worst_that_happened(session, kinds, level, advice):
    clean = replace(session, warnings=(), registrations=session.registrations[:1])
    made = {
        'clean': clean,
        'alone': replace(clean, scores={}),
        'warned': session,
        'unlike': replace(clean, scores={'ssim': 0.4, 'corr': 0.9}),
        'restless': replace(clean, head_motion={**session.head_motion, 'MeanDisplacementMm': 2.5}),
        'strange': replace(clean, unfamiliarity=2.15),
        'failed': FAILED,
    }
    verdict = judge([made[kind] for kind in kinds])
    assert verdict.level == level
    assert advice in verdict.advice


def test_a_failed_session_is_shown_beside_one_that_worked(write, session):
    page = write(session, FAILED)
    assert '✗ sub-01, ses-b: The bvec file is missing.' in page.words
    assert 'Traceback: InputError' in page.words
    assert page.all('details') == [{'class': 'stills', 'open': None}, {}]
    assert 'Agreement with the acquired FLAIR SSIM 0.713 in the brain' in page.words


def test_inputs_scores_and_details_are_listed(write, session):
    words = write(session, methods='Ran **bids_flair** 0.1.0.').words
    for text in (
        'made from T1w, T2w; not found: dwi',
        'unfamiliarity 0.40; up to 1 is like the training',
        'T1w : 0 of 3 quantiles outside',
        'on average 0.7 mm, at most 1.5 mm',
        'T2w : 3 of 3 quantiles outside',
        '✓ found sub-01/anat/sub-01_T2w.nii.gz',
        'dwi – not found',
        'Synthetic against acquired FLAIR, inside the brain mask',
        'PSNR (dB) 25.3',
        'Lesion AUC, acquired not defined',
        'mutual information 0.610',
        'synthesising the FLAIR 9',
        'Ran **bids_flair** 0.1.0.',
    ):
        assert text in words


def test_without_acquired_flair_only_the_synthetic_one_is_shown(write, session):
    alone = replace(session, acquired=None, std=None, scores={}, maps={}, registrations=())
    page = write(alone)
    assert len(page.all('img')) == 3 + 2
    assert 'no acquired FLAIR to compare with' in page.words
    for text in ('SSIM', 'where the uncertainty', 'Registration', 'Diffusion maps'):
        assert text not in page.words


def test_text_from_outside_is_escaped(write, session):
    evil = '<script>alert("&")</script>'
    hostile = replace(
        session,
        inputs={'T1w': evil},
        made_from=('T1w', evil),
        intensities={**session.intensities, evil: session.intensities['T1w']},
        images={**session.images, evil: session.images['T1w']},
        missing=(evil,),
        warnings=(evil,),
        registrations=(replace(session.registrations[0], contrast=evil, warnings=(evil,)),),
        details={evil: evil},
        scores={evil: 1.0},
    )
    page = write(hostile, FailedSession('01', None, evil, evil), methods=evil)
    assert page.scripts == 1  # its own
    assert page.text.count(evil) > 10


def test_equal_images_differ_nowhere_whatever_their_units(write, head, tmp_path, session):
    scaled = 0.01 * nib.load(head.path('FLAIR')).get_fdata(dtype=np.float32)
    same = head.save(scaled, tmp_path / 'same.nii.gz')
    pictures = write(replace(session, flair=same)).all('img')
    difference = decode(next(p['src'] for p in pictures if p['alt'].startswith('Synthetic −')))
    assert np.percentile(np.abs(difference.astype(int) - 0x77), 98) <= 3  # labels aside
    shown = [
        decode(next(p['src'] for p in pictures if p['alt'] == f'{name} FLAIR, axial slices'))
        for name in ('Synthetic', 'Acquired')
    ]
    assert np.abs(shown[0].astype(int) - shown[1]).max() <= 3


def test_voxels_the_acquired_flair_does_not_cover_show_no_difference(head, session):
    layout = reports.plan_layout(head.path('mask'), 1700)
    acquired = reports.load_cropped(head.path('FLAIR'), layout)
    half = acquired.copy()
    half[:, :, acquired.shape[2] // 2 :] = 0
    shown = reports._compare_flair(acquired, half, layout)
    difference = decode(shown['planes'][1]['rows'][2][1].src)
    assert np.abs(difference[30:-30].astype(int) - 0x77).max() <= 3  # without the labels


def test_many_sessions_stay_below_the_limit(monkeypatch, tmp_path, write, session):
    monkeypatch.setattr(reports, 'WIDTH', 600)
    monkeypatch.setattr(reports, 'LEAST_WIDTH', 60)
    one = write(session)
    limit = int(1.5 * (tmp_path / 'sub-01.html').stat().st_size)
    monkeypatch.setattr(reports, 'MAX_BYTES', limit)
    many = write(session, replace(session, session='b'))
    assert (tmp_path / 'sub-01.html').stat().st_size < limit
    widths = [
        next(int(a['width']) for a in page.all('img') if a['alt'].startswith('Reference image'))
        for page in (many, one)
    ]
    assert 200 < widths[0] < widths[1]


def test_a_failing_report_leaves_the_old_one_whole(tmp_path, session):
    path = write_report('01', [FAILED], '', tmp_path / 'sub-01.html')
    before = path.read_bytes()
    with pytest.raises(FileNotFoundError):
        write_report('01', [replace(session, flair=tmp_path / 'no.nii.gz')], '', path)
    assert path.read_bytes() == before


def test_real_scans_give_a_report_of_reasonable_size(shared_data, tmp_path, session):
    folder = shared_data / 'open-ms-mni' / 'sub-07' / 'anat'
    t1w, t2w, flair = (
        folder / f'sub-07_space-MNI152_desc-preproc_{name}.nii.gz'
        for name in ('T1w', 'T2w', 'FLAIR')
    )
    image = nib.load(t1w)
    mask = tmp_path / 'mask.nii.gz'
    nib.save(nib.Nifti1Image((image.get_fdata() > 0).astype(np.uint8), image.affine), mask)
    real = replace(
        session,
        mask=mask,
        reference=t1w,
        maps={},
        images={'T1w': t1w, 'T2w': t2w},
        low=None,
        high=None,
        flair=t2w,
        std=None,
        acquired=flair,
        registrations=(RegistrationView('T2w', t1w, t2w),),
    )
    path = write_report('07', [real], '', tmp_path / 'sub-07.html')
    assert 300_000 < path.stat().st_size < 8_000_000


def test_a_stripped_brain_has_no_second_opinion(session):
    stripped = replace(session, brain={'VolumeLitres': 1.2, 'AgreementDice': None})
    findings = {check.name: check.finding for check in check_session(stripped)}
    assert findings['Brain mask'] == '1.20 l'


def test_a_failed_registration_is_shown_from_the_raw_image(write, session, head):
    view = RegistrationView(
        'T2w', head.path('T1w'), None, {'Peak': 1.1}, trusted=False,
        native=head.path('T2w'), matrix=np.eye(4),
    )  # fmt: skip
    failed = replace(session, registrations=(view,), made_from=('T1w',))
    page = write(failed)
    assert 'T2w: failed, not used' in page.words
    pictures = {attrs['alt']: decode(attrs['src']) for attrs in page.all('img')}
    before, after = (
        next(p for alt, p in pictures.items() if alt.startswith(f'T2w {when}'))
        for when in ('before', 'as the registration that failed')
    )
    assert np.abs(before.astype(int) - after).max() < 3  # the transform is the identity
    levels = {check.name: check.level for check in check_session(failed)}
    assert levels['Registration of T2w'] == levels['Inputs'] == 'warnings'


def test_the_share_inside_the_interval_is_that_of_the_images(write, session, head):
    """Synthetic and acquired differ by noise far below the interval, but for the lesion."""
    words = write(session).words
    share = float(words.partition('90 % interval holds ')[2].split()[0])
    assert 0.85 < share < 1
