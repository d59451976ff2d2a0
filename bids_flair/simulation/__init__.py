"""Simulated people: tissue maps, lesions, MR physics, and raw BIDS datasets made of them."""

from bids_flair.simulation.anatomy import Anatomy, load_anatomy, shipped
from bids_flair.simulation.contrasts import Simulation, simulate
from bids_flair.simulation.dataset import write_dataset

__all__ = ['Anatomy', 'Simulation', 'load_anatomy', 'shipped', 'simulate', 'write_dataset']
