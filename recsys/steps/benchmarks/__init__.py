"""`recsys benchmark`: the field's own protocols, run with the defaults that ship."""
