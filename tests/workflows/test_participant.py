"""Every subset of contrasts becomes a graph that is whole."""

from itertools import combinations
from pathlib import Path

import fsl_stand_in
import pytest

from bids_flair.bids.session import SessionInputs
from bids_flair.settings import Settings
from bids_flair.workflows.backends import embedded, fsl
from bids_flair.workflows.participant import init_run_wf, init_session_wf, methods_text

RAW = Path('/data')
FILES = {
    'T1w': RAW / 'sub-01/anat/sub-01_T1w.nii.gz',
    'T2w': RAW / 'sub-01/anat/sub-01_T2w.nii.gz',
    'dwi': RAW / 'sub-01/dwi/sub-01_dwi.nii.gz',
    'FLAIR': RAW / 'sub-01/anat/sub-01_FLAIR.nii.gz',
}
SUBSETS = [
    subset
    for n in range(1, 5)
    for subset in combinations(FILES, n)
    if subset != ('FLAIR',)
]  # fmt: skip
SETTINGS = Settings(RAW, Path('/out'), work_dir=Path('/work'), mem_gb=8.0)


@pytest.fixture(autouse=True)
def _files_need_not_exist(tmp_path, monkeypatch):
    """Nipype checks paths when they are set: make them real, and empty."""
    files = {name: tmp_path / path.relative_to('/') for name, path in FILES.items()}
    for path in files.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for kind in ('bval', 'bvec'):
        files['dwi'].with_name(f'sub-01_dwi.{kind}').touch()
    monkeypatch.setattr(f'{__name__}.FILES', files)
    monkeypatch.setattr(
        f'{__name__}.SETTINGS',
        Settings(tmp_path / 'data', tmp_path / 'out', work_dir=tmp_path / 'work', mem_gb=8.0),
    )


def inputs_of(subset) -> SessionInputs:
    dwi = FILES['dwi'] if 'dwi' in subset else None
    companions = [dwi and dwi.with_name(f'sub-01_dwi.{kind}') for kind in ('bval', 'bvec')]
    return SessionInputs('01', None, {name: FILES[name] for name in subset}, *companions)


def graph_of(subset, settings=None, backend=embedded):
    settings = settings or SETTINGS
    workflow = init_run_wf([inputs_of(subset)], settings, backend)
    # What Nipype does before it runs: connections and mandatory inputs are checked.
    return workflow._create_flat_graph()


def names(graph) -> set[str]:
    return {node.name for node in graph.nodes()}


@pytest.fixture(params=['embedded', 'fsl'])
def backend(request, tmp_path, monkeypatch):
    """Each backend; FSL as far as it is needed to build a graph."""
    monkeypatch.setenv('FSLDIR', str(fsl_stand_in.install(tmp_path / 'fsl')))
    return {'embedded': embedded, 'fsl': fsl}[request.param]


@pytest.mark.parametrize('subset', SUBSETS, ids='+'.join)
def test_every_subset(subset, backend):
    graph = graph_of(subset, backend=backend)
    nodes = names(graph)
    register, fit = {'embedded': ('register', 'fit_tensor'), 'fsl': ('choose', 'dtifit')}[
        backend.NAME
    ]
    assert {'synthesize_flair', 'sink_synthetic_flair', 'sink_brain_mask'} <= nodes
    assert (f'{register}_T2w' in nodes) == ('T1w' in subset and 'T2w' in subset)
    assert (fit in nodes) == ('dwi' in subset)
    assert ('score_flair' in nodes) == ('FLAIR' in subset)
    connected = {
        target
        for _, node, data in graph.in_edges(data=True)
        if node.name == 'synthesize_flair'
        for _, target in data['connect']
    }
    images = {name for name in ('T1w', 'T2w') if name in subset}
    images |= {'MD', 'FA', 'S0'} if 'dwi' in subset else set()
    assert connected == images | {'mask', 'untrusted'}


@pytest.mark.parametrize('subset', SUBSETS, ids='+'.join)
def test_mandatory_inputs_are_set_or_connected(subset, backend):
    graph = graph_of(subset, backend=backend)
    for node in graph.nodes():
        connected = {
            target for _, _, d in graph.in_edges(node, data=True) for _, target in d['connect']
        }
        for name in node.inputs.traits(mandatory=True):
            given = getattr(node.inputs, name) is not None and str(
                getattr(node.inputs, name)
            ) not in ('<undefined>', '')
            assert given or name in connected, f'{node.fullname}.{name}'


def test_asking_for_fewer_inputs_leaves_the_rest_out():
    settings = Settings(
        SETTINGS.bids_dir, SETTINGS.output_dir, work_dir=SETTINGS.work_dir, inputs=('T1w', 'MD')
    )
    nodes = names(graph_of(('T1w', 'T2w', 'dwi'), settings))
    assert 'register_T2w' not in nodes
    assert 'fit_tensor' in nodes


def test_methods_name_what_was_done():
    text = methods_text(init_session_wf(inputs_of(FILES), SETTINGS, embedded))
    for word in ('bids_flair', 'T2w', 'tensor', 'six degrees of freedom', 'N4', 'Build-A-FLAIR'):
        assert word in text
    alone = methods_text(init_session_wf(inputs_of(('T1w',)), SETTINGS, embedded))
    assert 'tensor' not in alone
