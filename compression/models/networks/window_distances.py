"""Which pairs of a window's places lie equally far apart, and so have one number in an attention (Liu et al. 2021, Swin)."""

import numpy as np
from numpy.typing import NDArray


def distances(window: int) -> NDArray[np.int64]:
    """Return the number of the distance between each two places of a window, from 0 to (2 window - 1)^2. -> (places, places)"""
    places = np.indices((window, window)).reshape(2, -1)
    apart = places[:, :, None] - places[:, None, :] + window - 1
    found: NDArray[np.int64] = apart[0] * (2 * window - 1) + apart[1]
    return found
