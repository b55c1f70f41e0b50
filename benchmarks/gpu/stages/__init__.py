"""One file a stage; each has `cases(setup)`."""
