"""The terms of a hold."""

import pytest

from gripproxy.errors import InstructError
from gripproxy.grip.terms import Channel, checked


def test_a_channel_has_at_most_five_filters() -> None:
    channel = Channel("c", filters=("f",) * 5)
    assert checked(channel) is channel
    with pytest.raises(InstructError) as caught:
        checked(Channel("c\udcff", filters=("f",) * 6))
    assert str(caught.value) == "too many filters for channel 'c?'"
