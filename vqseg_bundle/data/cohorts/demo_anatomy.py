"""Synthetic anatomy of the demo cohort: one case from its parameters, a seed and its number.

The body contains a bright organ with a brighter core, and a dark vessel along the organ's wall. Blobs and tubes of
similar intensity elsewhere in the body are background, so that intensity does not suffice to identify the structures.
Contrast, gamma, bias field, noise and scale vary from case to case, as do position, size, rotation and shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

__all__ = ["DEMO_LABELS", "DemoCohortConfig", "DemoVolume", "make_demo_volume"]

DEMO_LABELS = {0: "background", 1: "organ", 2: "core", 3: "vessel"}
_BODY_MM = (64.0, 58.0)
_BODY_INTENSITY, _ORGAN_INTENSITY, _VESSEL_INTENSITY = 0.45, 0.68, 0.15
_Range = tuple[float, float]


@dataclass(frozen=True)
class DemoCohortConfig:
    """Size and difficulty of the demo cohort; lengths in mm, intensities from 0 (air) to about 1."""

    seed: int = 2025  # with a case's number, the seed of its generator
    labeled: int = 2  # labelled training cases
    unlabeled: int = 14  # unlabelled cases
    validation: int = 4  # validation cases
    test: int = 4  # test cases
    shape: tuple[int, int, int] = (96, 96, 12)  # voxels along each axis
    spacing: tuple[float, float, float] = (1.5, 1.5, 6.0)  # voxel size
    # largest distance of the organ's centre from the body's, along x, y and z
    shift: tuple[float, float, float] = (16.0, 14.0, 6.0)
    organ_size: _Range = (24.0, 34.0)  # first in-plane half axis of the organ
    organ_aspect: _Range = (0.6, 1.0)  # its second half axis as a share of the first
    organ_depth: _Range = (26.0, 38.0)  # its half axis along z
    rotation: float = 60.0  # largest in-plane rotation, in degrees
    deformation: float = 0.09  # standard deviation of a radius's smooth change, as a share
    core_size: _Range = (0.55, 0.72)  # the core's half axes as a share of the organ's
    vessel_radius: _Range = (7.0, 10.0)  # radius of the vessel
    vessel_angle: float = 35.0  # largest angle to the organ's first axis, in degrees
    blobs: tuple[int, int] = (1, 4)  # smallest and largest number of distracting blobs
    blob_radius: _Range = (6.0, 14.0)  # half axes of a blob
    tubes: tuple[int, int] = (0, 2)  # smallest and largest number of distracting tubes
    contrast: float = 0.25  # largest share by which a structure's contrast differs from the mean
    inverted_core: float = 0.0  # share of cases whose core is darker than the organ
    core_contrast: _Range = (0.2, 0.32)  # difference between core and organ
    texture: float = 0.03  # standard deviation of the tissue's smooth texture
    bias: float = 0.12  # standard deviation of the logarithm of the bias field
    gamma: float = 0.25  # largest logarithm of the exponent on intensities
    noise: _Range = (0.03, 0.06)  # standard deviation of the noise
    scale: _Range = (200.0, 2000.0)  # factor of the stored integers
    offset: _Range = (-200.0, 400.0)  # shift of the stored integers
    tilt: float = 8.0  # largest rotation of the volume in the scanner, in degrees


@dataclass(frozen=True)
class DemoVolume:
    """One case: int16 image, uint8 classes, and an affine with tilted axes, the first two reversed, origin off zero."""

    image: np.ndarray
    label: np.ndarray
    affine: np.ndarray


def make_demo_volume(config: DemoCohortConfig, index: int) -> DemoVolume:
    """Make the case of this number, deterministically."""
    return _CaseMaker(config, np.random.default_rng([config.seed, index])).make()


class _CaseMaker:
    """A case under construction: the voxel grid in mm about the volume's centre, and the generator."""

    def __init__(self, config: DemoCohortConfig, rng: np.random.Generator) -> None:
        self.config = config
        self.rng = rng
        axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(config.shape, config.spacing, strict=True)]
        self.x, self.y, self.z = np.meshgrid(*axes, indexing="ij")

    def make(self) -> DemoVolume:
        config, rng = self.config, self.rng
        center = rng.uniform(-1, 1, 3) * config.shift
        size = rng.uniform(*config.organ_size)
        half_axes = np.array([size, size * rng.uniform(*config.organ_aspect), rng.uniform(*config.organ_depth)])
        angle = np.deg2rad(rng.uniform(-1, 1) * config.rotation)
        organ = self._ellipsoid(center, half_axes, angle)
        core = self._core(center, half_axes, angle) & (organ < 0.88)
        vessel = self._vessel(center, half_axes, angle) & (organ >= 1)
        body = self._ellipsoid(np.zeros(3), np.array([*_BODY_MM, 1e6]), 0.0, deformation=0.03) < 1

        label = np.zeros(config.shape, dtype=np.uint8)
        label[body & vessel] = 3
        label[body & (organ < 1)] = 1
        label[body & core] = 2
        tissue = self._tissue(label, body, organ > 1.2)
        return DemoVolume(self._acquire(tissue), label, self._affine())

    def _ellipsoid(
        self, center: np.ndarray, half_axes: np.ndarray, angle: float, deformation: float | None = None
    ) -> np.ndarray:
        """Distance from the centre in units of the (smoothly deformed) radius: below 1 inside."""
        dx, dy, dz = self.x - center[0], self.y - center[1], self.z - center[2]
        u, v = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
        distance = np.sqrt((u / half_axes[0]) ** 2 + (v / half_axes[1]) ** 2 + (dz / half_axes[2]) ** 2)
        amount = self.config.deformation if deformation is None else deformation
        return distance / np.exp(amount * self._smooth(14.0))

    def _core(self, center: np.ndarray, half_axes: np.ndarray, angle: float) -> np.ndarray:
        rng = self.rng
        offset = rng.uniform(-0.25, 0.25, 3) * half_axes
        share = rng.uniform(*self.config.core_size)
        return self._ellipsoid(center + offset, share * half_axes, angle + rng.uniform(-0.5, 0.5)) < 1

    def _vessel(self, center: np.ndarray, half_axes: np.ndarray, angle: float) -> np.ndarray:
        """A tube along the organ's wall, near the end of its first axis, of the organ's length along z."""
        radius = self.rng.uniform(*self.config.vessel_radius)
        side = np.deg2rad(self.rng.uniform(-1, 1) * self.config.vessel_angle)
        wall = 1 / np.hypot(np.cos(side) / half_axes[0], np.sin(side) / half_axes[1])
        height = (self.z - center[2]) / half_axes[2]
        reach = wall * np.sqrt(np.clip(1 - height**2, 0, 1)) + 0.6 * radius
        x, y = center[0] + reach * np.cos(angle + side), center[1] + reach * np.sin(angle + side)
        return self._tube(x, y, radius) & (np.abs(height) < 0.9)

    def _tube(self, x: np.ndarray | float, y: np.ndarray | float, radius: float) -> np.ndarray:
        """Points closer than the radius to the line through (x, y), slightly oblique to z."""
        slope = self.rng.uniform(-0.1, 0.1, 2)
        distance = np.hypot(self.x - x - slope[0] * self.z, self.y - y - slope[1] * self.z)
        return distance < radius * np.exp(self.config.deformation * self._smooth(14.0))

    def _tissue(self, label: np.ndarray, body: np.ndarray, free: np.ndarray) -> np.ndarray:
        """Intensities before acquisition; distractors stay clear of the organ."""
        config, rng = self.config, self.rng
        vary = 1 + config.contrast * rng.uniform(-1, 1, 2)
        organ = _BODY_INTENSITY + (_ORGAN_INTENSITY - _BODY_INTENSITY) * vary[0]
        vessel = _BODY_INTENSITY + (_VESSEL_INTENSITY - _BODY_INTENSITY) * vary[1]
        sign = -1 if rng.uniform() < config.inverted_core else 1
        core = organ + sign * rng.uniform(*config.core_contrast)

        tissue = np.where(body, _BODY_INTENSITY, 0.02)
        allowed = body & free & (label == 0)
        for _ in range(rng.integers(config.blobs[0], config.blobs[1], endpoint=True)):
            blob = self._ellipsoid(self._somewhere(), rng.uniform(*config.blob_radius, 3), rng.uniform(0, np.pi)) < 1
            tissue[blob & allowed] = rng.choice([organ, core]) + rng.normal(0, 0.03)
        for _ in range(rng.integers(config.tubes[0], config.tubes[1], endpoint=True)):
            x, y, _ = self._somewhere()
            tube = self._tube(x, y, rng.uniform(*config.vessel_radius))
            tissue[tube & allowed] = vessel + rng.normal(0, 0.03)
        for index, intensity in ((1, organ), (2, core), (3, vessel)):
            tissue[label == index] = intensity
        return tissue + config.texture * self._smooth(5.0) * body

    def _somewhere(self) -> np.ndarray:
        """A point of the body, away from its edge."""
        radius, turn = 0.85 * np.sqrt(self.rng.uniform()), self.rng.uniform(0, 2 * np.pi)
        in_plane = radius * np.array([np.cos(turn), np.sin(turn)]) * _BODY_MM
        return np.array([*in_plane, self.rng.uniform(-30, 30)])

    def _acquire(self, tissue: np.ndarray) -> np.ndarray:
        config, rng = self.config, self.rng
        tissue = gaussian_filter(tissue, [0.7, 0.7, 0.3])
        tissue = np.clip(tissue, 0, None) ** np.exp(config.gamma * rng.uniform(-1, 1))
        tissue = tissue * np.exp(config.bias * self._smooth(40.0))
        tissue = tissue + rng.normal(0, rng.uniform(*config.noise), config.shape)
        factor = np.exp(rng.uniform(*np.log(config.scale)))
        return np.clip(np.rint(factor * tissue + rng.uniform(*config.offset)), -32768, 32767).astype(np.int16)

    def _smooth(self, length: float) -> np.ndarray:
        """Smooth field with zero mean, unit variance and this correlation length."""
        sigma = [length / spacing for spacing in self.config.spacing]
        field = gaussian_filter(self.rng.standard_normal(self.config.shape), sigma)
        return (field - field.mean()) / field.std()

    def _affine(self) -> np.ndarray:
        config, rng = self.config, self.rng
        tilt = np.deg2rad(rng.uniform(-1, 1) * config.tilt)
        turn = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
        affine = np.eye(4)
        affine[:3, :3] = turn @ np.diag([-config.spacing[0], -config.spacing[1], config.spacing[2]])
        affine[:3, 3] = rng.uniform(-40, 40, 3) - affine[:3, :3] @ ((np.array(config.shape) - 1) / 2)
        return affine
