"""What is left in the work folder is used again where it would come out the same."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from small_heads import make_doll, write_tiny_model

from bids_flair.workflows.synthesis import init_synthesis_wf


@pytest.fixture
def synthesise(tmp_path):
    """Run the workflow in one work folder; the FLAIR's file."""
    images, affine = make_doll(1)
    for name, values in (('t1w', images['T1w']), ('mask', images['T1w'] > 0)):
        image = nib.Nifti1Image(values.astype(np.float32), affine)
        image.to_filename(tmp_path / f'{name}.nii.gz')

    def run(model: Path) -> Path:
        workflow = init_synthesis_wf(model=str(model), images=('T1w',))
        workflow.base_dir = tmp_path
        given = workflow.get_node('inputnode').inputs
        given.T1w, given.mask = str(tmp_path / 't1w.nii.gz'), str(tmp_path / 'mask.nii.gz')
        given.registrations = []
        done = {node.name: node for node in workflow.run().nodes()}
        return Path(done['synthesize_flair'].result.outputs.flair)

    return run


def test_a_model_that_was_trained_again_makes_another_flair(synthesise, tmp_path):
    model = write_tiny_model(tmp_path / 'mine', inputs=('T1w',))
    flair = synthesise(model)
    before, written = nib.load(flair).get_fdata(), flair.stat().st_mtime_ns
    assert synthesise(model).stat().st_mtime_ns == written
    write_tiny_model(model, inputs=('T1w',))
    assert not np.allclose(nib.load(synthesise(model)).get_fdata(), before)


def test_the_methods_say_what_the_model_is_made_of(tmp_path):
    of_one = write_tiny_model(tmp_path / 'mine', inputs=('T1w',))
    expected = {
        'default': 'with neural networks and gradient-boosted trees, after',
        str(of_one): 'with a neural network, after',
    }
    for model, text in expected.items():
        assert text in init_synthesis_wf(model=model).visit_desc()
