"""Methods of federated optimisation, one file a paper. A file's name is the method's name in an experiment file."""
