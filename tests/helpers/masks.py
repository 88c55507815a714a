"""What one IMP run promises of its masks."""

from collections.abc import Mapping

from torch import Tensor


def is_nested(inner: Mapping[str, Tensor], outer: Mapping[str, Tensor]) -> bool:
    """Whether every weight that `inner` keeps is kept by `outer` too."""
    return not any(bool((kept & ~outer[name]).any()) for name, kept in inner.items())
