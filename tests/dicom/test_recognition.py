"""Which series is what, by headers as the vendors write them."""

import dicom_series as series
import pytest

from bids_flair.descriptor import load_descriptor
from bids_flair.dicom.headers import find_series
from bids_flair.dicom.plan import plan
from bids_flair.dicom.recognise import check_rules, holds, recognise

ORIGINAL = 'ORIGINAL\\PRIMARY\\M\\ND\\NORM'
BASE = {
    'modality': 'MR', 'storage': 'MR Image Storage', 'image_type': ORIGINAL, 'description': '',
    'sequence_name': '', 'epi': False, 'inversion': False, 'contrast_agent': False,
    'orientations': 1, 'slices': 160, 'volumes': 1, 'echoes': 1, 'directions': 0,
}  # fmt: skip
GRADIENT = {'echo': 'gradient', 'acquisition': '3D'}
SPIN = {'echo': 'spin', 'acquisition': '2D', 'slices': 30}
EPI = {'echo': 'spin', 'epi': True, 'slices': 60, 'echo_time': 80.0, 'repetition_time': 6000.0}


def mprage(**changes):
    times = {'echo_time': 2.98, 'repetition_time': 2300.0, 'inversion_time': 900.0}
    return {**GRADIENT, **times, 'inversion': True, 'flip_angle': 9.0, **changes}


def spin(echo_time, repetition_time, **changes):
    return {**SPIN, 'echo_time': echo_time, 'repetition_time': repetition_time, **changes}


def flair(echo_time, repetition_time, inversion_time, **changes):
    changes = {'inversion': True, 'inversion_time': inversion_time, **changes}
    return spin(echo_time, repetition_time, **changes)


def epi(bvalue=None, directions=0, **changes):
    return {**EPI, 'largest_bvalue': bvalue, 'directions': directions, **changes}


ENHANCED = {'storage': 'Enhanced MR Image Storage'}
SERIES = [
    # Siemens
    ('T1w', mprage(description='t1 mprage sag p2 iso', sequence_name='*tfl3d1_16ns')),
    ('T2w', spin(96, 5200, description='t2 tse tra', sequence_name='*tse2d1_15')),
    ('T2w', spin(408, 3200, description='t2 space sag', sequence_name='*spc_282ns', slices=176)),
    ('FLAIR', flair(81, 9000, 2500, description='t2 tirm tra dark fluid')),
    ('FLAIR', flair(388, 5000, 1800, description='t2 space dark fluid sag', slices=176)),
    ('T1w', spin(8.4, 550, description='t1 se tra', sequence_name='*se2d1')),
    ('T1w', spin(11, 700, description='t1 space', sequence_name='*spc_24ns', slices=176)),
    ('T1w', {**GRADIENT, 'echo_time': 2.5, 'repetition_time': 250.0, 'flip_angle': 70.0,
             'acquisition': '2D', 'slices': 30, 'description': 't1 fl2d tra'}),
    ('dwi', epi(1000.0, 64, description='ep2d diff mddw 64', volumes=65)),
    ('epi', epi(0.0, description='ep2d diff b0 pa')),
    ('epi', epi(description='ep2d se b0 pa')),
    (None, epi(1000.0, 64, image_type='DERIVED\\PRIMARY\\DIFFUSION\\ADC\\ND\\NORM')),
    (None, epi(1000.0, 0, image_type='DERIVED\\PRIMARY\\DIFFUSION\\TRACEW\\ND\\NORM')),
    (None, epi(1000.0, 3, description='ep2d diff 3scan trace')),
    (None, epi(description='ep2d bold rest', echo='gradient', volumes=200)),
    (None, epi(description='ep2d perf', echo='gradient', volumes=60)),
    (None, epi(1000.0, 6, description='cmrr dwi sbref')),
    (None, mprage(description='aahscout', slices=128)),
    (None, mprage(image_type='ORIGINAL\\PRIMARY\\M\\NORM\\LOCALIZER')),
    (None, mprage(description='localizer', slices=11, orientations=3)),
    (None, mprage(description='t1 mprage', image_type='ORIGINAL\\PRIMARY\\P\\ND')),
    (None, mprage(description='t1 mprage mpr tra', image_type='DERIVED\\SECONDARY\\MPR\\NORM')),
    (None, mprage(description='t1 mprage post', contrast_agent=True)),
    (None, spin(8.4, 550, description='t1 se tra km', contrast_agent=True)),
    (None, mprage(description='t1 mp2rage uni images', image_type='ORIGINAL\\PRIMARY\\M\\UNI')),
    (None, {**GRADIENT, 'echo_time': 20.0, 'repetition_time': 28.0, 'description': 'swi',
            'image_type': 'ORIGINAL\\PRIMARY\\M\\SWI\\NORM'}),
    (None, {**GRADIENT, 'echo_time': 20.0, 'repetition_time': 600.0, 'flip_angle': 20.0}),
    (None, {**GRADIENT, 'echo_time': 3.6, 'repetition_time': 21.0, 'flip_angle': 18.0,
            'description': 'tof 3d multi slab'}),
    (None, {**GRADIENT, 'echo_time': 4.92, 'repetition_time': 488.0, 'flip_angle': 60.0,
            'acquisition': '2D', 'description': 'gre field mapping', 'echoes': 2}),
    (None, spin(12, 3000, description='pd tse tra')),
    (None, flair(35, 4000, 150, description='stir tra')),
    # Siemens XA, enhanced
    ('T1w', mprage(**ENHANCED, image_type='ORIGINAL\\PRIMARY\\T1\\NONE', contrast='T1')),
    ('FLAIR', flair(388, 5000, 1800, **ENHANCED, image_type='ORIGINAL\\PRIMARY\\T2\\NONE',
                    contrast='T2')),
    ('T2w', spin(96, 5200, **ENHANCED, contrast='T2')),
    ('dwi', epi(1000.0, 30, **ENHANCED, image_type='ORIGINAL\\PRIMARY\\DIFFUSION\\NONE')),
    (None, epi(1000.0, 0, **ENHANCED, image_type='DERIVED\\PRIMARY\\DIFFUSION\\ADC')),
    (None, epi(**ENHANCED, image_type='ORIGINAL\\PRIMARY\\FMRI\\NONE', volumes=300)),
    # GE
    ('T1w', mprage(echo_time=3.2, repetition_time=8.2, inversion_time=450.0, flip_angle=12.0,
                   description='ax t1 bravo', image_type='ORIGINAL\\PRIMARY\\OTHER')),
    ('T1w', {**GRADIENT, 'echo_time': 3.0, 'repetition_time': 7.0, 'flip_angle': 12.0,
             'description': 'ax fspgr 3d'}),
    ('T2w', spin(90, 2500, acquisition='3D', slices=200, description='sag t2 cube')),
    ('FLAIR', flair(120, 8002, 2250, description='ax t2 flair')),
    ('T1w', flair(24, 2500, 920, description='ax t1 flair')),
    ('dwi', epi(1000.0, 30, echo=None, description='ax dti 30 dir')),
    (None, epi(description='apparent diffusion coefficient mm2 s')),
    (None, mprage(description='3 plane loc', orientations=3)),
    # Philips
    ('T1w', mprage(echo_time=2.93, repetition_time=6.5, sequence_name='t1tfe',
                   image_type='ORIGINAL\\PRIMARY\\M_FFE\\M\\FFE')),
    ('T2w', spin(80, 3000, image_type='ORIGINAL\\PRIMARY\\M_SE\\M\\SE', description='t2w tse')),
    ('FLAIR', flair(125, 11000, 2800, image_type='ORIGINAL\\PRIMARY\\M_IR\\M\\IR')),
    ('FLAIR', flair(340, 4800, 1650, acquisition='3D', description='3d brain view flair')),
    ('dwi', epi(1000.0, 16, sequence_name='dwise')),
    (None, mprage(image_type='ORIGINAL\\PRIMARY\\PHASE MAP\\P\\FFE')),
    (None, mprage(description='smartbrain', slices=50)),
    (None, epi(1000.0, 0, image_type='ORIGINAL\\PRIMARY\\ADC_SE\\ADC\\SE')),
    # UIH
    ('dwi', epi(928.3, 16, echo=None, sequence_name='epi_dti',
                image_type='ORIGINAL\\PRIMARY\\M\\VFRAME')),
    ('T1w', mprage(sequence_name='gre_fsp', description='t1 gre fsp 3d sag iso')),
    ('FLAIR', flair(98, 7500, 2300, description='t2 fse ifsat flair tra')),
    # headers that anonymisation emptied
    ('T1w', {'description': 't1 mprage'}),
    ('FLAIR', {'description': 'ax t2 flair'}),
    ('T2w', {'description': 'ax t2'}),
    # what is no image of the head
    (None, {'storage': 'Secondary Capture Image Storage', 'description': 't1'}),
    (None, {'storage': 'MR Spectroscopy Storage'}),
    (None, spin(96, 5200, body_part='CSPINE')),
    (None, mprage(volumes=3)),
    (None, mprage(slices=3)),
    (None, {'description': 'something new', 'echo_time': 45.0}),
]  # fmt: skip


@pytest.mark.parametrize(('kind', 'fields'), SERIES)
def test_a_series_is_what_it_says(kind, fields):
    decision = recognise({**BASE, **fields}, load_descriptor().dicom_rules)
    assert decision.kind == kind, decision.reason
    assert decision.reason


def test_conditions():
    assert holds('ORIGINAL\\PRIMARY', 'original')
    assert holds(5.0, [None, 5])
    assert not holds(5.0, [5.1, None])
    assert holds(None, None)
    assert not holds(None, 'x')
    assert not holds(None, [None, None])
    assert holds(False, False)
    assert not holds(True, False)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ([], 'a list "rules"'),
        ({'rules': [{'kind': 'PDw', 'reason': '', 'when': {}}]}, "kind 'PDw'"),
        ({'rules': [{'kind': None, 'reason': '', 'when': {'te': 1}}]}, 'asks for te'),
        ({'rules': [{'kind': None, 'reason': '', 'when': {'description': '('}}]}, 'description'),
        ({'rules': [{'kind': None, 'reason': '', 'when': {'echo_time': [1]}}]}, 'echo_time'),
        ({'rules': [{'kind': None, 'reason': 3, 'when': {}}]}, 'a text as its reason'),
    ],
)
def test_rules_that_cannot_be_followed(content, message):
    with pytest.raises(ValueError, match=message):
        check_rules(content)


@pytest.mark.parametrize(
    ('agent', 'description', 'enhanced'),
    [
        ('', 't1 mprage', False), ('Gadovist', 't1 mprage', True), ('NONE', 't1 mprage', False),
        ('', 't1 mprage post', True), ('', 't1+c', True), ('', 'T1 KM', True),
        ('Dotarem', 'T1 pre', False), ('', 't1_mprage_nativ', False),
    ],
)  # fmt: skip
def test_contrast_agent(tmp_path, agent, description, enhanced):
    header = {**series.T1W, 'SeriesDescription': description, 'ContrastBolusAgent': agent}
    series.write_classic(tmp_path, series.phantom(), series.affine('axial'), header)
    (found,) = find_series([tmp_path])
    assert found.fields['contrast_agent'] is enhanced


def test_what_a_scanner_derived_gives_way_to_an_original(tmp_path):
    derived = {**series.T1W, 'ImageType': ['DERIVED', 'PRIMARY', 'M'], 'SeriesNumber': 8}
    for header in (derived, series.T1W):
        series.write_classic(tmp_path, series.phantom(), series.affine('axial'), header)
    rules = load_descriptor().dicom_rules
    items = plan(find_series([tmp_path]), rules, '01', None)
    assert [item.stem for item in items] == ['sub-01/anat/sub-01_T1w', None]
    only = plan([items[1].series], rules, '01', None)
    assert only[0].stem == 'sub-01/anat/sub-01_T1w'


def test_two_phase_encodings_have_their_names(tmp_path):
    for number, direction in enumerate(('AP', 'PA'), 5):
        header = {**series.DWI, 'SeriesNumber': number, 'SeriesDescription': f'dti_{direction}'}
        voxels = series.phantom(len(series.BVALS))
        series.write_classic(tmp_path, voxels, series.affine('axial'), header)
    items = plan(find_series([tmp_path]), load_descriptor().dicom_rules, '01', 'a')
    assert [item.stem for item in items] == [
        'sub-01/ses-a/dwi/sub-01_ses-a_dir-AP_dwi', 'sub-01/ses-a/dwi/sub-01_ses-a_dir-PA_dwi'
    ]  # fmt: skip


def test_a_patient_s_name_in_a_description_is_struck_out(tmp_path):
    header = {**series.T1W, 'SeriesDescription': 't1 mustermann PID7654321'}
    series.write_classic(tmp_path, series.phantom(), series.affine('axial'), header)
    (found,) = find_series([tmp_path])
    assert found.title == 'series 2 (t1 *** ***)'
    assert 'ustermann' not in repr(found)
