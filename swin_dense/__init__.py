"""Swin Transformer backbones for every dense task."""


def __getattr__(name: str) -> str:
    """Reads `__version__` when it is asked for, so that importing the package stays light."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version

    return version("swin-dense")
