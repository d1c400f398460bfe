"""From light to display: how bright a scene looks on a screen, and 8-bit sRGB."""

import numpy as np
from jaxtyping import Float32, UInt8

Light = Float32[np.ndarray, "*any"]


def film(light: Light) -> Light:
    """Display intensity of scene light under a film's curve, which keeps shadows open and dulls highlights.

    Fitted to colours of published MOVi-A clips whose light and reflectance are known: 0.017 gives 0.14, 0.037 gives
    0.21, 0.4 gives 0.45. Lamps in mirrors come out white.
    """
    bent = np.maximum(light, 0) ** np.float32(0.62)
    return 2.19 * bent / (1 + 3.07 * bent) + 0.02 * light


def daylight(light: Light) -> Light:
    """Display intensity of outdoor light: nearly straight, with a soft shoulder towards white."""
    return light * (1 + light / 9) / (1 + 0.6 * light)


def to_srgb(linear: Light) -> UInt8[np.ndarray, "*any"]:
    """8-bit sRGB of display intensities, cut at 1."""
    linear = np.clip(linear, 0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** np.float32(1 / 2.4) - 0.055)
    return (curved * 255 + 0.5).astype(np.uint8)
