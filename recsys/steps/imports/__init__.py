"""The parts of `recsys import`; the step itself is `recsys.steps.import_raw`."""
