"""What a record holds, whether its class is interpreted (slots) or compiled (getters)."""

from __future__ import annotations

from inspect import isdatadescriptor


def attributes(record: type) -> list[str]:
    """The names of the attributes of a slotted class, without those that are its own business."""
    return sorted(name for name, each in vars(record).items() if isdatadescriptor(each) and not name.startswith("_"))
