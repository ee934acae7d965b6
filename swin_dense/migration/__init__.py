"""Configs of mmdet and mmseg as configs of ours."""

from __future__ import annotations

from swin_dense.migration.configs import Conversion, convert_config

__all__ = ["Conversion", "convert_config"]
