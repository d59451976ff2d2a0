"""Steps are told in words, and a run ends with one honest code."""

import pytest

from bids_flair.cli.participant_level import exit_code
from bids_flair.cli.progress import step_name
from bids_flair.errors import ExitCode


@pytest.mark.parametrize(
    ('node', 'step'),
    [
        ('extract_brain', 'finding the brain'),
        ('correct_bias', 'correcting the bias field'),
        ('correct_bias_T2w', 'correcting the bias field of T2w'),
        ('register_dwi', 'registering dwi'),
        ('resample_FLAIR', 'resampling FLAIR'),
        ('choose_boundary', 'judging the refined registration of dwi'),
        ('sink_md', None),
        ('inputnode', None),
    ],
)
def test_step_name(node, step):
    assert step_name(node) == step


@pytest.mark.parametrize(
    ('codes', 'code'),
    [
        ([0, 0], ExitCode.DONE),
        ([0, 65], ExitCode.PARTICIPANT_FAILED),
        ([65, 65], ExitCode.DATA_UNUSABLE),
        ([65, 66], ExitCode.PARTICIPANT_FAILED),
        ([66], ExitCode.INPUT_MISSING),
    ],
)
def test_exit_code(codes, code):
    assert exit_code([ExitCode(value) for value in codes]) == code
