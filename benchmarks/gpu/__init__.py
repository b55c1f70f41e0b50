"""The GPU kit: says in nine minutes on a bare GPU machine whether this project works there, how fast, what to mend."""
