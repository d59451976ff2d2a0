"""What each batch system is asked for a step, and what is left to its user."""

import os

import nipype.pipeline.plugins as nipype_plugins
import pytest

from bids_flair.workflows.cluster import (
    ARGUMENTS,
    NOT_WAITING,
    OTHER_PLUGINS,
    Need,
    node_args,
    refusal,
    sessions_at_once,
    set_login_name,
    submits_jobs,
)

GPU = Need(3.0, 1, gpu=True)
THREADS = Need(2.0, 4)


def asked(system: str, need: Need, **of_run: str) -> str:
    (text,) = node_args({'plugin': system, 'plugin_args': of_run}, need).values()
    return text


def test_every_plugin_is_one_of_nipype():
    names = {name.removesuffix('Plugin') for name in dir(nipype_plugins) if 'Plugin' in name}
    assert {*ARGUMENTS, *OTHER_PLUGINS, *NOT_WAITING} == names - {'Debug'}


@pytest.mark.parametrize(
    ('system', 'need', 'text'),
    [
        ('SLURM', THREADS, '--mem=1908M --cpus-per-task=4'),
        ('SLURM', GPU, '--mem=2862M --cpus-per-task=1 --gres=gpu:1'),
        ('SGE', THREADS, '-V -l mem_free=477M -pe smp 4'),
        ('SGE', GPU, '-V -l mem_free=2862M -l gpu=1'),
        ('PBS', THREADS, '-V -l select=1:ncpus=4:mem=1908mb'),
        ('PBS', GPU, '-V -l select=1:ncpus=1:mem=2862mb:ngpus=1'),
        ('LSF', THREADS, '-n 4 -R "span[hosts=1]" -R "rusage[mem=1908MB]"'),
        ('LSF', GPU, '-n 1 -R "span[hosts=1]" -R "rusage[mem=2862MB]" -gpu "num=1"'),
    ],
)
def test_memory_processors_and_gpu_are_asked_for(system, need, text):
    assert asked(system, need) == text


@pytest.mark.parametrize(
    ('system', 'own', 'left'),
    [
        ('SLURM', '--mem=8G', '--cpus-per-task=4'),
        ('SLURM', '--mem-per-cpu 2G -c 2', ''),
        ('SLURM', '--mail-type=END', '--mem=1908M --cpus-per-task=4'),
        ('SGE', '-l h_vmem=4G -pe threads 4', '-V'),
        ('PBS', '-l nodes=1:ppn=4', '-V'),
        ('LSF', '-R "rusage[mem=8000]"', '-n 4 -R "span[hosts=1]"'),
    ],
)
def test_what_the_user_asks_for_is_left_to_them(system, own, left, tmp_path):
    assert asked(system, THREADS, **{ARGUMENTS[system]: own}) == left
    assert asked(system, THREADS, template=f'#!/bin/sh\n#XY {own}\n') == left
    (tmp_path / 'template').write_text(f'#!/bin/sh\n#XY {own}\n')
    assert asked(system, THREADS, template=str(tmp_path / 'template')) == left


def test_gpu_steps_may_be_asked_for_in_the_words_of_a_site():
    assert asked('SLURM', GPU, gpu_args='-p gpu').endswith('--gres=gpu:1 -p gpu')
    assert asked('SLURM', GPU, gpu_args='--gres=gpu:a100:1').count('--gres') == 1
    assert asked('SGE', GPU, gpu_args='-q gpu.q -l ngpus=1').endswith('M -q gpu.q -l ngpus=1')
    assert 'gpu' not in asked('SLURM', THREADS, gpu_args='-p gpu')


def test_plugins_that_do_not_wait_or_do_not_exist_are_refused():
    assert refusal('SLURM') is None
    assert refusal('SLURMGraph').endswith('goes unseen: SLURM.')
    assert "no plugin 'Slurm'" in refusal('Slurm')


def test_sessions_in_one_graph_are_bounded():
    assert sessions_at_once({'plugin': 'SLURM'}) == 16
    assert sessions_at_once({'plugin': 'SLURM', 'plugin_args': {'max_jobs': 4}}) == 4
    assert sessions_at_once({'plugin': 'SLURM', 'plugin_args': {'max_jobs': 900}}) == 16
    assert not submits_jobs({}) and not submits_jobs({'plugin': 'Linear'})


def test_a_login_name_is_found_where_none_is_set(monkeypatch):
    monkeypatch.delenv('LOGNAME', raising=False)
    set_login_name()
    assert os.environ['LOGNAME']
