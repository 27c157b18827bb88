"""When which scene is shown: a few frames a second, and no faster than a person can follow.

A small model writes thousands of tokens a second. Shown so, there is nothing to see; at a reader's
pace the same texts are a race. The speed that is displayed is always the real one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing

from aha.play.scene import Scene
from aha.play.session import Session

FRAME_S = 1 / 12


def frames(
    session: Session,
    scenes: Generator[Scene, None, None],
    pace: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Generator[Scene, None, None]:
    """The scenes to show; the last one is always among them, once, at the end.

    `pace` is tokens a second of each row at most; 0: as fast as they are written.
    """
    begun = clock()
    shown_at = begun - FRAME_S
    scene: Scene | None = None
    is_new = False
    with closing(scenes):
        for scene in scenes:
            while pace and scene.longest > (due := int((clock() - begun) * pace)):
                yield session.cut(scene, due)
                sleep(FRAME_S)
                shown_at = clock()
            is_new = clock() - shown_at < FRAME_S
            if not is_new:
                shown_at = clock()
                yield scene
    if scene is not None and is_new:
        yield scene
