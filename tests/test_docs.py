"""What the documents tell people to type works."""

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

BLOCK = re.compile(r'^```python\n(.*?)^```', re.MULTILINE | re.DOTALL)


def blocks(path: Path) -> list[str]:
    return BLOCK.findall(path.read_text())


@pytest.fixture
def scans(dolls, tmp_path, monkeypatch) -> Path:
    """A folder with the files that the examples name: a head and its mask, on one grid."""
    return write_scans(dolls, tmp_path, monkeypatch)


@pytest.fixture
def part(dolls, tmp_path, monkeypatch) -> Path:
    """The same of the middle of the head, where nothing looks for a brain."""
    return write_scans(dolls, tmp_path, monkeypatch, slice(20, -20))


def write_scans(dolls, tmp_path, monkeypatch, part=slice(None)) -> Path:
    anat = dolls / 'sub-01/anat'
    for contrast in ('T1w', 'T2w'):
        image = nib.load(anat / f'sub-01_{contrast}.nii.gz').slicer[part, part, part]
        image.to_filename(tmp_path / f'{contrast.lower()}.nii.gz')
    mask = (image.get_fdata() > 0).astype(np.uint8)
    nib.Nifti1Image(mask, image.affine).to_filename(tmp_path / 'mask.nii.gz')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_images_of_a_notebook(root, part):
    exec(blocks(root / 'docs' / 'library.md')[0], {})
    flair, low, high, mask = (
        nib.load(part / f'{name}.nii.gz').get_fdata() for name in ('flair', 'low', 'high', 'mask')
    )
    assert (low <= flair).all() and (flair <= high).all()
    assert np.median(flair[mask > 0]) == pytest.approx(1, abs=0.3)
    assert not flair[mask == 0].any()


@pytest.mark.slow
def test_notebook_of_the_readme(root, part):
    (block,) = blocks(root / 'README.md')
    exec(block, {})
    assert nib.load(part / 'flair.nii.gz').shape == nib.load(part / 't1w.nii.gz').shape


@pytest.mark.slow
def test_workflow_of_one_s_own(root, part):
    block = blocks(root / 'docs' / 'library.md')[1]
    statements = [line for line in block.splitlines() if line and not line.startswith('from')]
    assert len(statements) <= 20
    exec(block, {})
    mask = nib.load(part / 'mask.nii.gz').get_fdata() > 0
    flair = nib.load(part / 'flair.nii').get_fdata()
    assert np.median(flair[mask]) == pytest.approx(1, abs=0.3)


def test_workflow_from_scans_as_acquired(root, scans, capsys):
    exec(blocks(root / 'docs' / 'library.md')[2], {})
    assert 'A FLAIR was synthesised from T1w, T2w' in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.long
def test_workflow_from_scans_as_acquired_runs(root, scans):
    names = {}
    exec(blocks(root / 'docs' / 'library.md')[2], names)
    graph = names['workflow'].run()
    (describe,) = (node for node in graph.nodes() if node.name == 'describe')
    metadata = describe.result.outputs.metadata
    assert metadata['SynthesisInputs'] == ['T1w', 'T2w']
    assert [report['Contrast'] for report in metadata['Registrations']] == ['T2w']
    assert metadata['BrainMask']


def test_every_example_is_tested(root):
    assert len(blocks(root / 'docs' / 'library.md')) == 3
    assert len(blocks(root / 'README.md')) == 1


def test_links_between_documents_lead_somewhere(root):
    for path in (root / 'README.md', *(root / 'docs').glob('*.md')):
        for target in re.findall(r'\]\(([^):#]+)\)', path.read_text()):
            assert (path.parent / target).exists(), f'{path.name}: {target}'


def test_factories_are_exported(root):
    from bids_flair import workflows

    for name in workflows.__all__:
        assert callable(getattr(workflows, name)), name
    table = (root / 'docs' / 'library.md').read_text()
    for name in (name for name in workflows.__all__ if name.startswith('init_')):
        row = next(line for line in table.splitlines() if line.startswith(f'| `{name}`'))
        fields = set(re.findall(r'`(\w+)`', row)) - {name}
        workflow = getattr(workflows, name)(
            **({'contrast': 'T2w'} if name in ('init_reference_wf', 'init_alignment_wf') else {})
        )
        nodes = (workflow.get_node('inputnode'), workflow.get_node('outputnode'))
        known = {field for node in nodes for field in node.outputs.copyable_trait_names()}
        assert fields <= known, name
