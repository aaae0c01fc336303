"""Generated aerial scenes: what lies where (terrain, buildings) and how a sensor sees it (spectra).

Every number that decides a pixel comes from integers, or from single additions, multiplications and square roots of
floats: the same on every processor. Sines, matrix products and float image filters are avoided, because they
round differently from one machine to the next; so the same seed gives the same scene everywhere.
"""

from folds.scenery.canvas import target_shares
from folds.scenery.scene import draw_scene
from folds.scenery.spectra import Sensor

__all__ = ["Sensor", "draw_scene", "target_shares"]
