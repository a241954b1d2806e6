"""The interface of the HEAR benchmark: the modules `talnet` and `weanet`."""
