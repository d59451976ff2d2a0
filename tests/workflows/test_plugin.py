"""A worker that the system kills makes its node fail, and does not hang the run."""

import subprocess

import pytest
from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from nipype.pipeline.plugins import PBSPlugin

from bids_flair.workflows.plugin import RobustMultiProcPlugin, batch_plugin


def kill_itself(x):
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)
    return x


def add_one(x):
    return x + 1


def run(functions, tmp_path):
    workflow = pe.Workflow('killed', base_dir=tmp_path)
    for number, function in enumerate(functions):
        node = pe.Node(niu.Function(function=function, output_names=['y']), name=f'n{number}')
        node.inputs.x = number
        node.config = {'execution': {'crashdump_dir': str(tmp_path), 'crashfile_format': 'txt'}}
        workflow.add_nodes([node])
    seen = []
    plugin = RobustMultiProcPlugin(
        {'n_procs': 1, 'status_callback': lambda node, status: seen.append((node.name, status))}
    )
    try:
        workflow.run(plugin=plugin)
    finally:
        run.seen = seen


def test_killed_worker_is_noticed_and_others_go_on(tmp_path):
    with pytest.raises(Exception, match='memory ran out'):
        run([kill_itself, add_one], tmp_path)
    assert ('n0', 'exception') in run.seen
    assert ('n1', 'end') in run.seen
    crash = next(tmp_path.glob('crash-*n0*.txt')).read_text()
    assert 'memory ran out' in crash


def test_all_well(tmp_path):
    run([add_one, add_one], tmp_path)
    assert {('n0', 'end'), ('n1', 'end')} <= set(run.seen)


def test_a_result_of_an_earlier_run_is_not_that_of_a_job_that_never_began(tmp_path, monkeypatch):
    def submit(plugin, scriptfile, node):
        plugin._pending[1] = node.output_dir()
        if begins:
            subprocess.run(['sh', scriptfile], check=True)
        return 1

    monkeypatch.setattr(PBSPlugin, '_submit_batchtask', submit)
    monkeypatch.setattr(PBSPlugin, '_is_pending', lambda plugin, job: False)
    workflow = pe.Workflow('lost', base_dir=tmp_path)
    node = pe.Node(niu.Function(function=add_one, output_names=['y']), name='add')
    workflow.add_nodes([node])
    workflow.config['execution'] = {
        'job_finished_timeout': '1', 'poll_sleep_duration': '0.1', 'crashdump_dir': str(tmp_path)
    }  # fmt: skip
    node.inputs.x, begins = 1, True
    workflow.run(plugin=batch_plugin('PBS', {'template': '#!/bin/sh'}))
    node.inputs.x, begins = 2, False
    with pytest.raises(RuntimeError, match='ended without a result'):
        workflow.run(plugin=batch_plugin('PBS', {'template': '#!/bin/sh'}))
