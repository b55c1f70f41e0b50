"""Publishing: run folder -> files that other programs load, scored again; model card; upload."""

from mathgrpo.publishing.export import Export, export_run
from mathgrpo.publishing.publish import Staged, stage, upload

__all__ = ["Export", "Staged", "export_run", "stage", "upload"]
