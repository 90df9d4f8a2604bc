"""The history of the schema, applied by `recsys.storage.engine.migrate`."""
