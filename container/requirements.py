"""Print what a setup.cfg asks for, validator included and PyTorch left out, one per line."""

import sys
from configparser import ConfigParser

config = ConfigParser()
config.read(sys.argv[1])
wanted = config['options']['install_requires'] + config['options.extras_require']['validator']
print(*(line for line in wanted.split('\n') if line and not line.startswith('torch ')), sep='\n')
