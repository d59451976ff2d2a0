"""A closed surface that inflates inside the head until it meets the rim of the brain.

After S. M. Smith, Fast robust automated brain extraction, Hum Brain Mapp 17, 143-155 (2002): the
forces and constants are those of that paper, but for the threshold: .5 leaked through thin bone in
five of six real heads, .7 in none.
"""

import numpy as np
from scipy import ndimage, sparse
from scipy.spatial import ConvexHull

RADII_MM = (3.33, 10.0)
REACH_MM = 20
BRIGHT_REACH_MM = 10
VERTICES = 2500


def inflate(
    data: np.ndarray,
    edge_mm: float,
    inside: np.ndarray,
    *,
    threshold: float = 0.7,
    steps: int = 500,
) -> np.ndarray:
    """Mask of the brain, found by inflating a surface from well inside it.

    Parameters
    ----------
    data : ndarray
        Image of a head on isotropic voxels.
    edge_mm : float
        Edge of a voxel.
    inside : ndarray of bool
        Where the brain roughly is: gives the centre, the size and the typical intensity.
    threshold : float
        Where between dark and bright the rim lies; larger values give smaller brains.
    steps : int
        How many times the surface is moved.

    Returns
    -------
    ndarray of bool
    """
    dark, bright = np.percentile(data, [2, 98])
    typical = np.median(data[inside])
    vertices, faces = _sphere(VERTICES)
    links, edges = _neighbours(faces)
    radius = (3 * inside.sum() / (4 * np.pi)) ** (1 / 3) * edge_mm
    centre = np.array(ndimage.center_of_mass(inside)) * edge_mm
    vertices = centre + 0.6 * radius * vertices
    levels = (dark, dark + 0.1 * (bright - dark), typical)
    for _ in range(steps):
        normals = _normals(vertices, faces)
        length = np.linalg.norm(vertices[edges[:, 0]] - vertices[edges[:, 1]], axis=1).mean()
        push = 0.05 * length * _force(data, edge_mm, vertices, normals, levels, threshold)
        vertices = (
            vertices + _smoothing(vertices, links, normals, length) + push[:, None] * normals
        )
        vertices = np.clip(vertices, 0, (np.array(data.shape) - 1) * edge_mm)
    # Whole voxels are filled that the surface only touches: half a voxel too much.
    inner = vertices / edge_mm - 0.5 * _normals(vertices, faces)
    return _filled(inner[faces], data.shape)


def _sphere(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (count, 3), spread evenly on the unit sphere, and faces (n, 3) turned outwards."""
    height = 1 - 2 * (np.arange(count) + 0.5) / count
    angle = np.pi * (1 + 5**0.5) * np.arange(count)
    ring = np.sqrt(1 - height**2)
    vertices = np.stack([ring * np.cos(angle), ring * np.sin(angle), height], 1)
    faces = ConvexHull(vertices).simplices
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    inward = (normals * corners.mean(1)).sum(1) < 0
    faces[inward] = faces[inward][:, ::-1]
    return vertices, faces


def _neighbours(faces: np.ndarray) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Matrix that averages over a vertex' neighbours, and the edges (n, 2)."""
    edges = np.unique(np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1), axis=0)
    ends = np.concatenate([edges, edges[:, ::-1]])
    joined = sparse.coo_matrix((np.ones(len(ends)), tuple(ends.T))).tocsr()
    return sparse.diags(1 / np.asarray(joined.sum(1)).ravel()) @ joined, edges


def _normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    corners = vertices[faces]
    of_faces = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.stack(
        [
            np.bincount(faces.ravel(), np.repeat(of_faces[:, axis], 3), len(vertices))
            for axis in range(3)
        ],
        1,
    )
    return normals / (np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12)


def _smoothing(vertices, links, normals, length: float) -> np.ndarray:
    """Keep vertices apart, and the surface no more curved than a brain is."""
    to_mean = links @ vertices - vertices
    along = (to_mean * normals).sum(1, keepdims=True) * normals
    curvature = 2 * np.linalg.norm(along, axis=1) / length**2
    flat, sharp = (1 / radius for radius in reversed(RADII_MM))
    weight = (1 + np.tanh(6 / (sharp - flat) * (curvature - (sharp + flat) / 2))) / 2
    return 0.5 * (to_mean - along) + weight[:, None] * along


def _force(data, edge_mm: float, vertices, normals, levels, threshold: float) -> np.ndarray:
    """Outwards (up to 2) where brain lies below the surface, inwards where it is dark there."""
    dark, lowest, typical = levels
    depths = np.arange(1, REACH_MM + 1)
    points = vertices[:, None] - depths[:, None] * normals[:, None]
    values = ndimage.map_coordinates(
        data, points.transpose(2, 0, 1) / edge_mm, order=1, mode='nearest'
    )
    least = np.clip(values.min(1), dark, typical)
    most = np.clip(values[:, :BRIGHT_REACH_MM].max(1), lowest, typical)
    rim = dark + threshold * (most - dark)
    return 2 * (least - rim) / (most - dark)


def _filled(triangles: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Voxels on and inside a closed surface of triangles (n, 3, 3) in voxel coordinates."""
    steps = np.linspace(0, 1, 12)
    first, second = (grid[np.add.outer(steps, steps) <= 1] for grid in np.meshgrid(steps, steps))
    weights = np.stack([1 - first - second, first, second], 1)
    points = np.round(np.einsum('pc,tcx->tpx', weights, triangles)).astype(int).reshape(-1, 3)
    shell = np.zeros(shape, bool)
    shell[tuple(np.clip(points, 0, np.array(shape) - 1).T)] = True
    return ndimage.binary_fill_holes(np.pad(shell, 1))[1:-1, 1:-1, 1:-1]
