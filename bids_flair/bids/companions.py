"""Files that belong to an image, such as its sidecars, by BIDS' principle of inheritance."""

import os
from pathlib import Path

EXTENSIONS = ('.json', '.bval', '.bvec')


class Companions:
    """What lies beside the images of a dataset and above them.

    pybids answers the same by looking through the whole dataset for every image; here each
    folder is looked into once.
    """

    def __init__(self, root: Path):
        self.root = root
        self._listed: dict[Path, list[Path]] = {}

    def of(self, image: Path, extension: str) -> list[Path]:
        """All that hold for an image, the nearest first."""
        entities, suffix = _parts(image)
        folders = [folder for folder in image.parents if folder.is_relative_to(self.root)]
        found = []
        for folder in folders:
            fitting = [
                path
                for path in self._companions_in(folder)
                if path.suffix == extension
                and _parts(path)[1] == suffix
                and _parts(path)[0] <= entities
            ]
            found += sorted(fitting, key=lambda path: (-len(_parts(path)[0]), path.name))
        return found

    def nearest(self, image: Path, extension: str) -> Path | None:
        """The one that counts where only one can, such as a bval; None if there is none."""
        return next(iter(self.of(image, extension)), None)

    def _companions_in(self, folder: Path) -> list[Path]:
        if folder not in self._listed:
            with os.scandir(folder) as entries:
                names = [entry.name for entry in entries if entry.name.endswith(EXTENSIONS)]
            self._listed[folder] = [folder / name for name in names]
        return self._listed[folder]


def _parts(path: Path) -> tuple[set[str], str]:
    """Entities in a file's name, as in ``acq-x``, and its suffix."""
    *entities, suffix = path.name.split('.')[0].split('_')
    return set(entities), suffix
