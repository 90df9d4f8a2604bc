"""`make demo` and `make stop`: the whole system on one machine, with the state under `.local`."""
