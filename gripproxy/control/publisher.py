"""What the inputs know of the rest: one narrow door for items, whichever way they came."""

from collections.abc import Callable, Sequence
from typing import Protocol

from gripproxy.grip.item import Item


class Publisher(Protocol):
    """Takes what was published. Nothing here waits, and no content makes it raise."""

    def publish(self, items: Sequence[Item]) -> None:
        """Queue `items` in their order; they are dispatched after the current callback."""

    def recover(self) -> None:
        """Forget every last id and let held HTTP requests look for what they missed."""

    @property
    def full(self) -> bool:
        """Whether the queue is at its bound, so that inputs should read no more.

        What they hand over all the same is taken.
        """

    def when_ready(self, resume: Callable[[], None]) -> None:
        """Call `resume` once, after the current callback, as soon as there is room."""
