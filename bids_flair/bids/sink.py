"""Writing derivatives under the names that ``data_descriptor.json`` gives them."""

from nipype.interfaces.base import traits
from niworkflows.interfaces.bids import DerivativesDataSink as _DerivativesDataSink

from bids_flair.descriptor import load_descriptor

# niworkflows does not know the entity that tells tensor maps apart.
_PARAM = {'name': 'param', 'pattern': r'[_/\\]+param-([a-zA-Z0-9+]+)'}


class _SinkInputSpec(_DerivativesDataSink.input_spec):
    trusted = traits.Bool(True, usedefault=True, desc='nothing is written if this is false')


class DerivativesDataSink(_DerivativesDataSink):
    """niworkflows' sink with this program's file names; keeps back what is not to be trusted."""

    input_spec = _SinkInputSpec
    out_path_base = ''
    _config_entities_dict = (*_DerivativesDataSink._config_entities_dict, _PARAM)
    _config_entities = frozenset({entity['name'] for entity in _config_entities_dict})
    _file_patterns = tuple(output.pattern for output in load_descriptor().outputs.values())

    def _run_interface(self, runtime):
        return super()._run_interface(runtime) if self.inputs.trusted else runtime
